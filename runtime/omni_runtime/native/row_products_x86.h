// Products of BlockMatMul for a few rows: each column is read once from memory, and each register
// of its weights is multiplied with all rows of a group.
#pragma once

#include "block_products_x86.h"

namespace row_products {

using block_matmul::above;
using block_matmul::Table;

constexpr int kLanes = sizeof(Floats) / sizeof(float);
constexpr int kBytes = sizeof(Integers);
constexpr int kAhead = 3072;  // prefetch distance in bytes
constexpr int kRows = 4;      // rows per group; their sums and scales fit in 16 registers
constexpr size_t kFew = kDot ? 12 : 6;    // up to this many rows, columns are faster than tiles
constexpr size_t kRest = 3 * kLanes / 8;  // the same behind tiles of many rows
constexpr size_t kTogether = 1;           // columns per product of a single row

// Values of a column in a register of packed weights. A row is padded to whole steps.
constexpr int step(int bits) { return kBytes * 8 / bits; }

inline size_t padded(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// A quantized row: `values` int8 (inner, padded to steps), and float32 (blocks, padded to kLanes)
// `scales` and `offset`: scale times sum times the zero point of the weights, which is subtracted
// from the product. Padding is zero.
struct Row {
  int8_t* values;
  float* scales;
  float* offset;
};

// Reorders a step of 4-bit weights' values: the even ones first, since a byte of weights holds an
// even value in its low nibble and an odd value in its high nibble.
inline void evens_first(int8_t* values) {
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2,
                                         4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  constexpr int parts = kBytes / 32;  // registers of 32 values that become half even ones
  __m256i even[parts], odd[parts];
  for (int i = 0; i < parts; i++) {
    __m256i half[2];
    for (int j = 0; j < 2; j++) {
      half[j] = _mm256_shuffle_epi8(load(values + 64 * i + 32 * j), order);
      half[j] = _mm256_permute4x64_epi64(half[j], 0xd8);
    }
    even[i] = _mm256_permute2x128_si256(half[0], half[1], 0x20);
    odd[i] = _mm256_permute2x128_si256(half[0], half[1], 0x31);
  }
  for (int i = 0; i < parts; i++) {
    store(values + 32 * i, even[i]);
    store(values + kBytes + 32 * i, odd[i]);
  }
}

template <int block>
void round_row(const float* x, int inner, int bits, const Row& into) {
  const int offset = kDot || bits == 4 ? above(bits) : 0, blocks = inner / block;
  for (int b = 0; b < blocks; b++) {
    int total;
    into.scales[b] =
        block_matmul::round_block(x + b * block, block, into.values + b * block, &total);
    into.offset[b] = offset * into.scales[b] * total;
  }
  const size_t rest = padded(blocks, kLanes) - blocks;
  std::fill_n(into.scales + blocks, rest, 0.0f);
  std::fill_n(into.offset + blocks, rest, 0.0f);
  std::fill_n(into.values + inner, padded(inner, step(bits)) - inner, int8_t{0});
  for (int i = 0; bits == 4 && i < inner; i += step(4)) evens_first(into.values + i);
}

// int32 sums of a step: each lane has 32 / bits neighbouring values.
template <int bits>
inline Integers products(Integers weights, const Table& table, const int8_t* row) {
  if constexpr (bits == 4) {  // 63 times 127 four times fits in int16
    const Integers low = POCKET_OMNI_WIDE(set1_epi8)(15);
    const Integers even = look_up(table.bytes, bits_and(weights, low));
    const Integers odd =
        look_up(table.bytes, bits_and(POCKET_OMNI_WIDE(srli_epi16)(weights, 4), low));
    const Integers sums = add_products(Integers{}, even, load_integers(row));
    return fours(add_products(sums, odd, load_integers(row + kBytes)));
  } else {
    return byte_products(weights, load_integers(row));
  }
}

// The block of each lane of each step, within kLanes blocks.
template <int bits, int block>
struct Lanes {
  static constexpr int steps = kLanes * block / step(bits);
  alignas(kBytes) int32_t block_of[steps][kLanes];

  constexpr Lanes() : block_of{} {
    for (int s = 0; s < steps; s++) {
      for (int lane = 0; lane < kLanes; lane++) {
        block_of[s][lane] = (s * step(bits) + lane * (32 / bits)) / block;
      }
    }
  }
};

// Multiplies one column with `rows` rows.
template <int bits, int block, int rows>
inline void column(const uint8_t* packed, const uint16_t* scales, const Table& table,
                   const Row* all, int inner, float* const* y) {
  static constexpr Lanes<bits, block> lanes;
  constexpr int wide = step(bits);
  const int blocks = inner / block;
  Floats sums[rows] = {};
  for (int b = 0; b < blocks; b += kLanes) {
    const int first = b * block;
    const Floats scale =
        b + kLanes <= blocks ? half_floats(scales + b) : some_half_floats(scales + b, blocks - b);
    Floats product[rows];
    POCKET_OMNI_UNROLL
    for (int r = 0; r < rows; r++) {
      product[r] = POCKET_OMNI_WIDE(mul_ps)(scale, load_floats(all[r].scales + b));
      const Floats offset = load_floats(all[r].offset + b);
      sums[r] = POCKET_OMNI_WIDE(fnmadd_ps)(scale, offset, sums[r]);
    }
    const int count = std::min(lanes.steps, (inner - first + wide - 1) / wide);
    POCKET_OMNI_UNROLL
    for (int s = 0; s < count; s++) {
      const int at = first + s * wide;
      const uint8_t* from = packed + size_t(at) * bits / 8;
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
      const Integers weights =
          at + wide <= inner ? load_integers(from) : some_integers(from, (inner - at) * bits / 8);
      const Integers from_block = load_integers(lanes.block_of[s]);
      POCKET_OMNI_UNROLL
      for (int r = 0; r < rows; r++) {
        const Integers found = products<bits>(weights, table, all[r].values + at);
        sums[r] = multiply_add(POCKET_OMNI_WIDE(cvtepi32_ps)(found),
                               permute(product[r], from_block), sums[r]);
      }
    }
  }
  for (int r = 0; r < rows; r++) *y[r] = sum(sums[r]);
}

// Multiplies kTogether columns with one row.
template <int bits, int block>
inline void columns_of_row(const uint8_t* packed, const uint16_t* scales, const Table& table,
                           const Row& row, int inner, float* y) {
  column<bits, block, 1>(packed, scales, table, &row, inner, &y);
}

}  // namespace row_products
