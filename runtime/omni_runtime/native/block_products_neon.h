// Products of BlockMatMul on arm64: groups of rows times a few columns (block_products_x86.h has
// those of x86).
#pragma once

#include <cstring>

#include "int8_neon.h"
#include "scratch.h"

namespace block_matmul {

using Sums = float32x4_t;    // one lane per row of a group
constexpr int kGroup = 4;    // rows per register of sums
constexpr int kColumns = 4;  // columns of a tile; with two groups, sums fill half of the registers

// A group of quantized, interleaved rows: `rows` int8 (inner / depth, kGroup, depth), where depth is
// kDepth of the products; `scales` float32 (blocks, kGroup).
struct Rows {
  int8_t* rows;
  float* scales;

  static size_t space(size_t values, size_t scales) {
    return Scratch::padded<int8_t>(values) + Scratch::padded<float>(scales);
  }

  static Rows take(Scratch& scratch, size_t values, size_t scales) {
    return {scratch.take<int8_t>(values), scratch.take<float>(scales)};
  }

  template <int block>
  Rows from(int first) const {
    return {rows + size_t(first) * kGroup, scales + size_t(first / block) * kGroup};
  }
};

template <int depth, int block>
void interleave(const int8_t (*values)[block], int8_t* to) {
  for (int k = 0; k < block; k += depth) {
    for (int m = 0; m < kGroup; m++, to += depth) std::memcpy(to, &values[m][k], depth);
  }
}

template <int block>
void round_rows(const float* x, int count, int inner, int, const Rows& into) {
  int8_t values[kGroup][block] = {};
  for (int b = 0; b < inner / block; b++) {
    for (int m = 0; m < kGroup; m++) {
      int total;
      const float* from = x + size_t(m) * inner + b * block;
      into.scales[b * kGroup + m] = m < count ? round_block(from, block, values[m], &total) : 0;
    }
    int8_t* to = into.rows + size_t{kGroup * block} * b;
    with_products([&](auto products) { interleave<products.kDepth, block>(values, to); });
  }
}

// Converts float16 to float32.
inline void unpack_scales(const uint16_t* from, int count, float* to) {
  int i = 0;
  for (; i + 4 <= count; i += 4) vst1q_f32(to + i, halves(from + i));
  for (; i < count; i++) to[i] = half(from[i]);
}

// A part of kColumns columns as int8 around zero, with one scale per block. Pairs of columns are
// interleaved for products of depth 8: (kColumns / 2, inner / 8, 2, 8).
struct Columns {
  int8_t* bytes;
  float* scales;
  static constexpr int8_t* high = nullptr;  // weights are never split, see kDot

  static size_t space(size_t size, size_t scales) {
    return Scratch::padded<int8_t>(size) + Scratch::padded<float>(scales);
  }

  static Columns take(Scratch& scratch, size_t size, size_t scales) {
    return {scratch.take<int8_t>(size), scratch.take<float>(scales)};
  }

  void unpack(size_t j, int inner, int bits, const Table& table, const uint8_t* packed) const {
    const bool pairs = arm::products == arm::Products::kMatrix;
    int8_t* to = bytes + (pairs ? j / 2 * 2 * inner + j % 2 * 8 : j * inner);
    const int step = pairs ? 16 : 8;  // between groups of eight values
    const auto store = [&](int8x16_t values) {
      vst1_s8(to, vget_low_s8(values));
      vst1_s8(to + step, vget_high_s8(values));
      to += 2 * step;
    };
    for (int k = 0; k < inner; k += 2 * kVector) {
      if (bits == 4) {
        const uint8x16_t both = vld1q_u8(packed + k / 2);
        const uint8x16_t even = vandq_u8(both, vdupq_n_u8(15)), odd = vshrq_n_u8(both, 4);
        store(table.look_up(vzip1q_u8(even, odd)));
        store(table.look_up(vzip2q_u8(even, odd)));
      } else {
        store(centred(vld1q_u8(packed + k)));
        store(centred(vld1q_u8(packed + k + kVector)));
      }
    }
  }
};

// Products of one block of groups of rows and kColumns columns: one register per group and column,
// one lane per row. `rows` and `columns` point to the block.
template <class Products, int block, int groups>
POCKET_OMNI_INLINE void block_of(const int8_t* const* rows, const int8_t* columns, int inner,
                                 int32x4_t* total) {
  std::fill_n(total, groups * kColumns, vdupq_n_s32(0));
  POCKET_OMNI_UNROLL
  for (int k = 0; k < block; k += kVector) {
    int8x16_t weights[kColumns];
    POCKET_OMNI_UNROLL
    for (int j = 0; j < kColumns; j++) weights[j] = load_bytes(columns + size_t(j) * inner + k);
    const auto four = [&](auto lane) __attribute__((always_inline)) {
      POCKET_OMNI_UNROLL
      for (int g = 0; g < groups; g++) {
        const int8x16_t row = load_bytes(rows[g] + (k + 4 * lane) * kGroup);
        POCKET_OMNI_UNROLL
        for (int j = 0; j < kColumns; j++) {
          int32x4_t& each = total[g * kColumns + j];
          each = Products::template dot_lane<lane>(each, row, weights[j]);
        }
      }
    };
    four(std::integral_constant<int, 0>());
    four(std::integral_constant<int, 1>());
    four(std::integral_constant<int, 2>());
    four(std::integral_constant<int, 3>());
  }
}

// The same by products of two rows and two columns, which are then sorted.
template <int block, int groups>
POCKET_OMNI_INLINE void block_of_pairs(const int8_t* const* rows, const int8_t* columns,
                                       int inner, int32x4_t* total) {
  constexpr int pairs = kColumns / 2;
  int32x4_t found[2 * groups][pairs];
  std::fill_n(found[0], 2 * groups * pairs, vdupq_n_s32(0));
  POCKET_OMNI_UNROLL
  for (int k = 0; k < block; k += 8) {
    int8x16_t weights[pairs];
    POCKET_OMNI_UNROLL
    for (int p = 0; p < pairs; p++) weights[p] = load_bytes(columns + 2 * (size_t(p) * inner + k));
    POCKET_OMNI_UNROLL
    for (int r = 0; r < 2 * groups; r++) {
      const int8x16_t two = load_bytes(rows[r / 2] + k * kGroup + r % 2 * kVector);
      POCKET_OMNI_UNROLL
      for (int p = 0; p < pairs; p++) found[r][p] = Matrix::product(found[r][p], two, weights[p]);
    }
  }
  POCKET_OMNI_UNROLL
  for (int g = 0; g < groups; g++) {
    POCKET_OMNI_UNROLL
    for (int p = 0; p < pairs; p++) {
      const int32x4_t a = found[2 * g][p], b = found[2 * g + 1][p];
      total[g * kColumns + 2 * p] = vuzp1q_s32(a, b);
      total[g * kColumns + 2 * p + 1] = vuzp2q_s32(a, b);
    }
  }
}

template <class Products, int block, int groups>
POCKET_OMNI_ALONE void tile_by(const Rows* rows, const int8_t* bytes, const float* scales,
                               int inner, Sums* sums) {
  constexpr int count = groups * kColumns;
  const int blocks = inner / block;
  const int8_t* from[groups];
  for (int g = 0; g < groups; g++) from[g] = rows[g].rows;
  Sums sum[count] = {};
  for (int b = 0; b < blocks; b++) {
    int32x4_t total[count];
    if constexpr (Products::kDepth == 8) {
      block_of_pairs<block, groups>(from, bytes, inner, total);
    } else {
      block_of<Products, block, groups>(from, bytes, inner, total);
    }
    bytes += block * Products::kDepth / 4;
    POCKET_OMNI_UNROLL
    for (int g = 0; g < groups; g++) {
      from[g] += block * kGroup;
      const float32x4_t scale = vld1q_f32(rows[g].scales + b * kGroup);
      POCKET_OMNI_UNROLL
      for (int j = 0; j < kColumns; j++) {
        const float32x4_t product = vcvtq_f32_s32(total[g * kColumns + j]) * scale;
        Sums& each = sum[g * kColumns + j];
        each = vfmaq_n_f32(each, product, scales[j * blocks + b]);
      }
    }
  }
  POCKET_OMNI_UNROLL
  for (int i = 0; i < count; i++) sums[i] += sum[i];
}

// Adds the products of groups of rows and kColumns unpacked columns to `sums`: one register per
// group and column, one lane per row. (`fits` is for x86.)
template <int block, int groups, int fits>
void tile(const Rows* rows, const int8_t* bytes, const float* scales, int inner, Sums* sums) {
  with_products([&](auto products) {
    tile_by<decltype(products), block, groups>(rows, bytes, scales, inner, sums);
  });
}

}  // namespace block_matmul
