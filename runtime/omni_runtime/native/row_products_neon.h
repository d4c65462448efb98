// Products of BlockMatMul on arm64 for a few rows: each column is read once from memory, and each
// register of its weights is multiplied with all rows of a group.
#pragma once

#include "int8_neon.h"

namespace row_products {

using namespace block_matmul;

constexpr int kLanes = 4;  // blocks per step
constexpr int kRows = 4;   // rows per group

// A quantized row: `values` int8 (inner), one scale per block, and for 4 bits per block `offset`:
// scale times sum times the zero point of the weights, which is subtracted from the product.
struct Row {
  int8_t* values;
  float* scales;
  float* offset;
};

// The even ones of each 32 values of a row for 4 bits come first, since a byte of weights holds an
// even value in its low nibble and an odd value in its high nibble.
template <int block>
void round_row(const float* x, int inner, int bits, const Row& into) {
  for (int b = 0; b < inner / block; b++) {
    int total;
    into.scales[b] = round_block(x + b * block, block, into.values + b * block, &total);
    into.offset[b] = bits == 4 ? kZeroPoint * into.scales[b] * total : 0;
  }
  for (int i = 0; bits == 4 && i < inner; i += 2 * kVector) {
    const int8x16x2_t sorted = vld2q_s8(into.values + i);
    vst1q_s8(into.values + i, sorted.val[0]);
    vst1q_s8(into.values + i + kVector, sorted.val[1]);
  }
}

// Sums of four products of one block of a column and of each row. `values` are those of the block.
template <class Products, int bits, int block, int rows>
POCKET_OMNI_INLINE void products(const uint8_t* packed, const int8_t* const* values, size_t first,
                                 int32x4_t* sums) {
  std::fill_n(sums, rows, vdupq_n_s32(0));
  constexpr int step = kVector * 8 / bits;
  POCKET_OMNI_UNROLL
  for (int i = 0; i < block; i += step) {
    const uint8x16_t bytes = vld1q_u8(packed + i * bits / 8);
    int8x16_t weights[8 / bits];
    if constexpr (bits == 4) {
      weights[0] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
      weights[1] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
    } else {
      weights[0] = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
    }
    POCKET_OMNI_UNROLL
    for (int r = 0; r < rows; r++) {
      POCKET_OMNI_UNROLL
      for (int part = 0; part < 8 / bits; part++) {
        const int8x16_t row = load_bytes(values[r] + first + i + part * kVector);
        sums[r] = Products::dot(sums[r], weights[part], row);
      }
    }
  }
}

template <class Products, int bits, int block, int rows>
void column_by(const uint8_t* packed, const uint16_t* scales, const Row* all, int inner,
               float* const* y) {
  constexpr size_t bytes = block * bits / 8;
  const int blocks = inner / block;
  const int8_t* values[rows];
  for (int r = 0; r < rows; r++) values[r] = all[r].values;
  float32x4_t sums[rows] = {}, offsets[rows] = {};
  int b = 0;
  for (; b + kLanes <= blocks; b += kLanes, packed += kLanes * bytes) {
    int32x4_t found[kLanes][rows];
    POCKET_OMNI_UNROLL
    for (int j = 0; j < kLanes; j++) {
      products<Products, bits, block, rows>(packed + j * bytes, values, j * block, found[j]);
    }
    const float32x4_t scale = halves(scales + b);
    POCKET_OMNI_UNROLL
    for (int r = 0; r < rows; r++) {
      const int32x4_t low = vpaddq_s32(found[0][r], found[1][r]);
      const int32x4_t high = vpaddq_s32(found[2][r], found[3][r]);
      const float32x4_t each = scale * vld1q_f32(all[r].scales + b);
      sums[r] = vfmaq_f32(sums[r], vcvtq_f32_s32(vpaddq_s32(low, high)), each);
      if (bits == 4) offsets[r] = vfmaq_f32(offsets[r], scale, vld1q_f32(all[r].offset + b));
      values[r] += kLanes * block;
    }
  }
  for (int r = 0; r < rows; r++) *y[r] = vaddvq_f32(sums[r] - offsets[r]);
  for (; b < blocks; b++, packed += bytes) {
    int32x4_t found[rows];
    products<Products, bits, block, rows>(packed, values, 0, found);
    for (int r = 0; r < rows; r++) {
      const float sum = all[r].scales[b] * vaddvq_s32(found[r]) - all[r].offset[b];
      *y[r] += half(scales[b]) * sum;
      values[r] += block;
    }
  }
}

// Multiplies one column with `rows` rows.
template <int bits, int block, int rows>
void column(const uint8_t* packed, const uint16_t* scales, const Row* all, int inner,
            float* const* y) {
  with_products([&](auto products) {
    column_by<decltype(products), bits, block, rows>(packed, scales, all, inner, y);
  });
}

}  // namespace row_products

namespace block_matmul {

using row_products::round_row;
using row_products::Row;

template <int bits, int block>
float column(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks) {
  float y;
  float* const to = &y;
  row_products::column<bits, block, 1>(packed, scales, &row, blocks * block, &to);
  return y;
}

}  // namespace block_matmul
