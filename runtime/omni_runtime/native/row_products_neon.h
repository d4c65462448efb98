// Products of BlockMatMul on arm64 for a few rows: each column is read once from memory, and each
// register of its weights is multiplied with all rows of a group.
#pragma once

#include "int8_neon.h"

namespace row_products {

using namespace block_matmul;

constexpr int kLanes = 4;        // blocks per step
constexpr int kRows = 4;         // rows per group
constexpr size_t kFew = 4;       // up to this many rows, columns are faster than tiles
constexpr size_t kRest = 0;      // the same behind tiles of many rows
constexpr int kTogether = 4;     // columns per product of a single row; they share its registers

// Rows need no padding: blocks are whole steps.
constexpr int step(int) { return 1; }
inline size_t padded(size_t size, size_t) { return size; }

// Zero point of the weights as they are multiplied.
template <class Products, int bits>
constexpr int kZeroPointOf = bits == 4 ? 0 : Products::kBytesZeroPoint;

// A quantized row: `values` int8 (inner), one scale per block, and per block `offset`: scale times
// sum times the zero point of the weights, which is subtracted from the product.
struct Row {
  int8_t* values;
  float* scales;
  float* offset;
};

// The even ones of each 32 values of a row for 4 bits come first, since a byte of weights holds an
// even value in its low nibble and an odd value in its high nibble.
template <int block>
void round_row(const float* x, int inner, int bits, const Row& into) {
  const int zero_point = with_products([&](auto products) {
    using Products = decltype(products);
    return bits == 4 ? kZeroPointOf<Products, 4> : kZeroPointOf<Products, 8>;
  });
  for (int b = 0; b < inner / block; b++) {
    int total;
    into.scales[b] = round_block(x + b * block, block, into.values + b * block, &total);
    into.offset[b] = zero_point * into.scales[b] * total;
  }
  for (int i = 0; bits == 4 && i < inner; i += 2 * kVector) {
    const int8x16x2_t sorted = vld2q_s8(into.values + i);
    vst1q_s8(into.values + i, sorted.val[0]);
    vst1q_s8(into.values + i + kVector, sorted.val[1]);
  }
}

// Sums of four products of one block of each row and each column: `sums` (rows, columns). The block
// begins at `values` + first and at `packed`; columns are `stride` bytes apart.
template <class Products, int bits, int block, int rows, int columns>
POCKET_OMNI_INLINE void products(const uint8_t* packed, const Table& table, size_t stride,
                                 const int8_t* const* values, size_t first, int32x4_t* sums) {
  constexpr int parts = 8 / bits, step = kVector * parts;
  std::fill_n(sums, rows * columns, vdupq_n_s32(0));
  POCKET_OMNI_UNROLL
  for (int i = 0; i < block; i += step) {
    int8x16_t row[rows][parts];
    POCKET_OMNI_UNROLL
    for (int r = 0; r < rows; r++) {
      POCKET_OMNI_UNROLL
      for (int p = 0; p < parts; p++) row[r][p] = load_bytes(values[r] + first + i + p * kVector);
    }
    POCKET_OMNI_UNROLL
    for (int c = 0; c < columns; c++) {
      const uint8x16_t bytes = vld1q_u8(packed + c * stride + i * bits / 8);
      const int8x16_t even = table.look_up(vandq_u8(bytes, vdupq_n_u8(15)));
      const int8x16_t odd = table.look_up(vshrq_n_u8(bytes, 4));
      POCKET_OMNI_UNROLL
      for (int r = 0; r < rows; r++) {
        int32x4_t& sum = sums[r * columns + c];
        if constexpr (bits == 4) {
          sum = Products::dot(sum, even, row[r][0]);
          sum = Products::dot(sum, odd, row[r][1]);
        } else {
          sum = Products::dot_bytes(sum, bytes, row[r][0]);
        }
      }
    }
  }
}

template <class Products, int bits, int block, int rows, int columns>
void columns_by(const uint8_t* packed, const uint16_t* scales, const Table& table, const Row* all,
                int inner, float* const* y) {
  constexpr size_t bytes = block * bits / 8;
  const int blocks = inner / block;
  const size_t stride = bytes * blocks;
  const int8_t* values[rows];
  for (int r = 0; r < rows; r++) values[r] = all[r].values;
  float32x4_t sums[rows * columns] = {}, offsets[rows * columns] = {};
  int b = 0;
  for (; b + kLanes <= blocks; b += kLanes, packed += kLanes * bytes) {
    int32x4_t found[kLanes][rows * columns];
    POCKET_OMNI_UNROLL
    for (int j = 0; j < kLanes; j++) {
      products<Products, bits, block, rows, columns>(packed + j * bytes, table, stride, values,
                                                     j * block, found[j]);
    }
    POCKET_OMNI_UNROLL
    for (int r = 0; r < rows; r++) {
      const float32x4_t row = vld1q_f32(all[r].scales + b), offset = vld1q_f32(all[r].offset + b);
      POCKET_OMNI_UNROLL
      for (int c = 0; c < columns; c++) {
        const int i = r * columns + c;
        const int32x4_t low = vpaddq_s32(found[0][i], found[1][i]);
        const int32x4_t high = vpaddq_s32(found[2][i], found[3][i]);
        const float32x4_t scale = halves(scales + size_t(c) * blocks + b);
        sums[i] = vfmaq_f32(sums[i], vcvtq_f32_s32(vpaddq_s32(low, high)), scale * row);
        if (kZeroPointOf<Products, bits> != 0) offsets[i] = vfmaq_f32(offsets[i], scale, offset);
      }
      values[r] += kLanes * block;
    }
  }
  for (int i = 0; i < rows * columns; i++) {
    y[i / columns][i % columns] = vaddvq_f32(sums[i] - offsets[i]);
  }
  for (; b < blocks; b++, packed += bytes) {
    int32x4_t found[rows * columns];
    products<Products, bits, block, rows, columns>(packed, table, stride, values, 0, found);
    for (int i = 0; i < rows * columns; i++) {
      const Row& row = all[i / columns];
      const float scale = half(scales[size_t(i % columns) * blocks + b]);
      y[i / columns][i % columns] += scale * (row.scales[b] * vaddvq_s32(found[i]) - row.offset[b]);
    }
    for (int r = 0; r < rows; r++) values[r] += block;
  }
}

// Multiplies one column with `rows` rows.
template <int bits, int block, int rows>
void column(const uint8_t* packed, const uint16_t* scales, const Table& table, const Row* all,
            int inner, float* const* y) {
  with_products([&](auto products) {
    columns_by<decltype(products), bits, block, rows, 1>(packed, scales, table, all, inner, y);
  });
}

// Multiplies kTogether columns with one row.
template <int bits, int block>
void columns_of_row(const uint8_t* packed, const uint16_t* scales, const Table& table,
                    const Row& row, int inner, float* y) {
  with_products([&](auto products) {
    columns_by<decltype(products), bits, block, 1, kTogether>(packed, scales, table, &row, inner,
                                                               &y);
  });
}

}  // namespace row_products
