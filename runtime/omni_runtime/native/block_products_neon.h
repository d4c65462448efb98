// Products of BlockMatMul on arm64: one row times one column, and groups of rows times a few columns.
//
// Rows are quantized to int8 with one scale per block, as in MatMulNBits at accuracy level 4. Each
// product is compiled for every set of instructions, and the processor's is chosen by the call. The
// instructions are written in assembly, since the rest of the file must run on every processor.
#pragma once

#include <algorithm>
#include <cstring>

#include "scratch.h"
#include "simd.h"

// Makes the assembler accept what the compiler may not use. GNU's accepts the extensions only of a
// later architecture, and then all that CXX may have asked for must be in it.
#ifdef __clang__
#define POCKET_OMNI_ACCEPT(extension) ".arch_extension " extension "\n\t"
#else
#define POCKET_OMNI_ACCEPT(extension) ".arch armv8.6-a+crypto+sve2\n\t"
#endif

namespace block_matmul {

using Sums = float32x4_t;     // one lane per row of a group
constexpr int kGroup = 4;     // rows per register of sums
constexpr int kColumns = 4;   // columns of a tile; with two groups, its sums fill half of the registers
constexpr int kFewRows = 3;   // up to this many rows, single rows are faster than a group
constexpr int kVector = 16;   // int8 values in a register
constexpr bool kDot = true;   // products of 8 bits need no split weights
constexpr int kZeroPoint = 8;  // of stored weights of 4 bits

inline int8x16_t load_bytes(const void* from) { return vld1q_s8(static_cast<const int8_t*>(from)); }

inline float half(uint16_t value) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(value))), 0);
}

inline float32x4_t halves(const uint16_t* from) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

// A group of quantized, interleaved rows: `rows` int8 (inner / depth, kGroup, depth), where depth is
// that of the products; `scales` float32 (blocks, kGroup).
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

// Products of armv8.0. Values are within 127, so that two products fit in int16.
struct Neon {
  static constexpr int kDepth = 4;

  static int32x4_t dot(int32x4_t sums, int8x16_t weights, int8x16_t values) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(values));
    return vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(weights, values)));
  }

  template <int lane>
  static int32x4_t dot_lane(int32x4_t sums, int8x16_t values, int8x16_t weights) {
    const int32x4_t four = vdupq_laneq_s32(vreinterpretq_s32_s8(weights), lane);
    return dot(sums, vreinterpretq_s8_s32(four), values);
  }
};

// `volatile` keeps the order of the source in tiles, in which neighbours do not wait for each other.
struct Dot {
  static constexpr int kDepth = 4;

  static int32x4_t dot(int32x4_t sums, int8x16_t weights, int8x16_t values) {
    asm(POCKET_OMNI_ACCEPT("dotprod") "sdot %0.4s, %1.16b, %2.16b"
        : "+w"(sums)
        : "w"(weights), "w"(values));
    return sums;
  }

  template <int lane>
  static int32x4_t dot_lane(int32x4_t sums, int8x16_t values, int8x16_t weights) {
    asm volatile(POCKET_OMNI_ACCEPT("dotprod") "sdot %0.4s, %1.16b, %2.4b[%3]"
        : "+w"(sums)
        : "w"(values), "w"(weights), "i"(lane));
    return sums;
  }
};

struct Matrix : Dot {
  static constexpr int kDepth = 8;

  static int32x4_t product(int32x4_t sums, int8x16_t rows, int8x16_t columns) {
    asm volatile(POCKET_OMNI_ACCEPT("i8mm") "smmla %0.4s, %1.16b, %2.16b"
        : "+w"(sums)
        : "w"(rows), "w"(columns));
    return sums;
  }
};

// Calls body with the products of this processor.
template <class Body>
auto with_products(const Body& body) {
  switch (arm::products) {
    case arm::Products::kMatrix: return body(Matrix());
    case arm::Products::kDot: return body(Dot());
    default: return body(Neon());
  }
}

// Quantizes a block to int8. Returns its scale; `total` is set to the sum of the integers.
inline float round_block(const float* x, int size, int8_t* rounded, int* total) {
  float32x4_t largest = vdupq_n_f32(0);
  for (int i = 0; i < size; i += 4) largest = vmaxq_f32(largest, vabsq_f32(vld1q_f32(x + i)));
  const float reach = vmaxvq_f32(largest);
  const float inverse = reach > 0 ? 127 / reach : 0;
  int32x4_t totals = vdupq_n_s32(0);
  for (int i = 0; i < size; i += kVector) {
    int16x4_t part[4];
    for (int j = 0; j < 4; j++) {
      const int32x4_t four = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * j), inverse));
      totals = vaddq_s32(totals, four);
      part[j] = vqmovn_s32(four);
    }
    vst1q_s8(rounded + i, vcombine_s8(vqmovn_s16(vcombine_s16(part[0], part[1])),
                                      vqmovn_s16(vcombine_s16(part[2], part[3]))));
  }
  *total = vaddvq_s32(totals);
  return reach / 127;
}

// One quantized row: `row` int8 (inner), one scale per block, and for 4 bits per block `offset`:
// scale times sum times the zero point of the weights, which is subtracted from the product.
struct Row {
  int8_t* row;
  float* scales;
  float* offset;
};

// The even ones of each 32 values of a row for 4 bits come first, since a byte of weights holds an
// even value in its low nibble and an odd value in its high nibble.
template <int block>
void round_row(const float* x, int inner, int bits, const Row& into) {
  for (int b = 0; b < inner / block; b++) {
    int total;
    into.scales[b] = round_block(x + b * block, block, into.row + b * block, &total);
    into.offset[b] = bits == 4 ? kZeroPoint * into.scales[b] * total : 0;
  }
  for (int i = 0; bits == 4 && i < inner; i += 2 * kVector) {
    const int8x16x2_t sorted = vld2q_s8(into.row + i);
    vst1q_s8(into.row + i, sorted.val[0]);
    vst1q_s8(into.row + i + kVector, sorted.val[1]);
  }
}

// Sums of four products of one block.
template <class Products, int bits, int block>
POCKET_OMNI_INLINE int32x4_t products(const uint8_t* packed, const int8_t* row) {
  int32x4_t sums = vdupq_n_s32(0);
  if constexpr (bits == 4) {
    for (int i = 0; i < block; i += 2 * kVector) {
      const uint8x16_t both = vld1q_u8(packed + i / 2);
      const int8x16_t even = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
      const int8x16_t odd = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
      sums = Products::dot(sums, even, load_bytes(row + i));
      sums = Products::dot(sums, odd, load_bytes(row + i + kVector));
    }
  } else {
    for (int i = 0; i < block; i += kVector) {
      const int8x16_t centred = veorq_s8(load_bytes(packed + i), vdupq_n_s8(-128));
      sums = Products::dot(sums, centred, load_bytes(row + i));
    }
  }
  return sums;
}

template <class Products, int bits, int block>
float column_by(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks) {
  constexpr size_t bytes = block * bits / 8;
  float32x4_t sums = vdupq_n_f32(0), offsets = vdupq_n_f32(0);
  const int8_t* values = row.row;
  int b = 0;
  for (; b + 4 <= blocks; b += 4, packed += 4 * bytes, values += 4 * block) {
    int32x4_t found[4];
    POCKET_OMNI_UNROLL
    for (int j = 0; j < 4; j++) {
      found[j] = products<Products, bits, block>(packed + j * bytes, values + j * block);
    }
    const int32x4_t four = vpaddq_s32(vpaddq_s32(found[0], found[1]), vpaddq_s32(found[2], found[3]));
    const float32x4_t scale = halves(scales + b);
    sums = vfmaq_f32(sums, vcvtq_f32_s32(four), scale * vld1q_f32(row.scales + b));
    if (bits == 4) offsets = vfmaq_f32(offsets, scale, vld1q_f32(row.offset + b));
  }
  float rest = 0;
  for (; b < blocks; b++, packed += bytes, values += block) {
    const int found = vaddvq_s32(products<Products, bits, block>(packed, values));
    rest += half(scales[b]) * (row.scales[b] * found - row.offset[b]);
  }
  return vaddvq_f32(sums - offsets) + rest;
}

// Multiplies one row with one column.
template <int bits, int block>
float column(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks) {
  return with_products([&](auto products) {
    return column_by<decltype(products), bits, block>(packed, scales, row, blocks);
  });
}

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

  void unpack(size_t j, int inner, int bits, const uint8_t* packed) const {
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
        const int8x16_t zero = vdupq_n_s8(kZeroPoint);
        store(vsubq_s8(vreinterpretq_s8_u8(vzip1q_u8(even, odd)), zero));
        store(vsubq_s8(vreinterpretq_s8_u8(vzip2q_u8(even, odd)), zero));
      } else {
        store(veorq_s8(load_bytes(packed + k), vdupq_n_s8(-128)));
        store(veorq_s8(load_bytes(packed + k + kVector), vdupq_n_s8(-128)));
      }
    }
  }
};

// Products of one block of groups of rows and kColumns columns: one register per group and column,
// one lane per row. `rows` and `columns` point to the block.
template <class Products, int block, int groups>
POCKET_OMNI_INLINE void block_of(const int8_t* const* rows, const int8_t* columns, int inner, int32x4_t* total) {
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
POCKET_OMNI_INLINE void block_of_pairs(const int8_t* const* rows, const int8_t* columns, int inner,
                           int32x4_t* total) {
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
POCKET_OMNI_ALONE void tile_by(const Rows* rows, const int8_t* bytes, const float* scales, int inner,
                               Sums* sums) {
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
// group and column, one lane per row.
template <int block, int groups>
void tile(const Rows* rows, const int8_t* bytes, const float* scales, int inner, Sums* sums) {
  with_products([&](auto products) {
    tile_by<decltype(products), block, groups>(rows, bytes, scales, inner, sums);
  });
}

}  // namespace block_matmul
