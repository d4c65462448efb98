// Products of BlockMatMul for many rows: groups of rows times a few columns.
//
// Rows are quantized to int8 with one scale per block, as in MatMulNBits at accuracy level 4.
#pragma once

#include "scratch.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace block_matmul {

constexpr int kVector = 32;                             // int8 values in a register
using Sums = Floats;                                    // one lane per row of a group
constexpr int kGroup = sizeof(Sums) / sizeof(float);    // rows per register of sums
constexpr int kColumns = kDot ? 6 : 3;  // columns of a tile; VNNI has a latency of five products

// Zero point of the weights as they are multiplied: levels of 4 bits are within -32 ... 31.
constexpr int above(int bits) { return bits == 4 ? 32 : kDot ? 128 : 8; }

// The levels that 4-bit indices stand for, as bytes with a zero point.
struct Table {
  __m128i bytes;

  explicit Table(const int8_t* levels)
      : bytes(_mm_add_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)),
                           _mm_set1_epi8(above(4)))) {}
};

inline float half(uint16_t value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }

// Quantizes a block to int8. Returns its scale; `total` is set to the sum of the integers.
inline float round_block(const float* x, int size, int8_t* rounded, int* total) {
  __m256 largest = _mm256_setzero_ps();
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (int i = 0; i < size; i += 8) {
    largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, largest);
  const float reach = *std::max_element(lanes, lanes + 8);
  const __m256 inverse = _mm256_set1_ps(reach > 0 ? 127 / reach : 0);
  __m256i totals = _mm256_setzero_si256();
  for (int i = 0; i < size; i += kVector) {
    __m256i part[4];
    for (int j = 0; j < 4; j++) {
      part[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), inverse));
      totals = _mm256_add_epi32(totals, part[j]);
    }
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(part[0], part[1]),
                                              _mm256_packs_epi32(part[2], part[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs within halves
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + i),
                        _mm256_permutevar8x32_epi32(packed, order));
  }
  alignas(32) int32_t counts[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(counts), totals);
  *total =
      counts[0] + counts[1] + counts[2] + counts[3] + counts[4] + counts[5] + counts[6] + counts[7];
  return reach / 127;
}

// A group of quantized, interleaved rows: `rows` int8 (inner / 4, kGroup, 4), so that a register
// holds four values of each row; `scales` and `offset` float32 (blocks, kGroup) as in
// row_products.h.
struct Rows {
  int8_t* rows;
  float* scales;
  float* offset;

  static size_t space(size_t values, size_t scales) {
    return Scratch::padded<int8_t>(values) + 2 * Scratch::padded<float>(scales);
  }

  static Rows take(Scratch& scratch, size_t values, size_t scales) {
    return {scratch.take<int8_t>(values), scratch.take<float>(scales),
            scratch.take<float>(scales)};
  }

  template <int block>
  Rows from(int first) const {
    const size_t skipped = size_t(first / block) * kGroup;
    return {rows + size_t(first) * kGroup, scales + skipped, offset + skipped};
  }
};

template <int block>
void round_rows(const float* x, int count, int inner, int bits, const Rows& into) {
  int8_t values[kGroup][block];
  for (int b = 0; b < inner / block; b++) {
    for (int m = 0; m < kGroup; m++) {
      float& scale = into.scales[b * kGroup + m];
      int total = 0;
      if (m < count) {
        scale = round_block(x + size_t(m) * inner + b * block, block, values[m], &total);
      } else {
        scale = 0;
        std::memset(values[m], 0, block);
      }
      into.offset[b * kGroup + m] = above(bits) * scale * total;
    }
    int8_t* to = into.rows + size_t{kGroup * block} * b;
    for (int k = 0; k < block; k += 4) {
      for (int m = 0; m < kGroup; m++, to += 4) std::memcpy(to, &values[m][k], 4);
    }
  }
}

// Unpacks a column of 4-bit indices to bytes of the table, in the order of the rows. Each byte is
// widened to 16 bits, low | high << 4, and becomes low | high << 8.
inline void unpack4(const uint8_t* packed, int inner, const Table& table, uint8_t* bytes) {
  constexpr int wide = sizeof(Integers);
  const Integers nibbles = POCKET_OMNI_WIDE(set1_epi16)(0x0f0f);
  int k = 0;
  for (; k + wide <= inner; k += wide) {
    const Integers pairs = widen_bytes(packed + k / 2);
    const Integers indices =
        bits_and(bits_or(pairs, POCKET_OMNI_WIDE(slli_epi16)(pairs, 4)), nibbles);
    store_integers(bytes + k, look_up(table.bytes, indices));
  }
  alignas(16) uint8_t each[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(each), table.bytes);
  for (; k < inner; k += 2) {
    bytes[k] = each[packed[k / 2] & 15];
    bytes[k + 1] = each[packed[k / 2] >> 4];
  }
}

// Converts float16 to float32.
inline void unpack_scales(const uint16_t* from, int count, float* to) {
  int i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, halves(from + i));
  for (; i < count; i++) to[i] = half(from[i]);
}

// Splits a column of bytes into two columns of nibbles with zero point 8: a weight is 16 times
// `high` plus the other. `high` is at most 16, so its products still fit.
inline void unpack8(const uint8_t* packed, int inner, uint8_t* high, uint8_t* low) {
  const __m256i nibble = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
  const auto upper = [&](__m256i bytes) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
  };
  for (int k = 0; k < inner; k += kVector) {
    const __m256i bytes = load(packed + k);
    const __m256i below = _mm256_add_epi8(_mm256_and_si256(bytes, nibble), eight);
    store(high + k, _mm256_add_epi8(upper(bytes), upper(below)));
    store(low + k, _mm256_and_si256(below, nibble));
  }
}

// A part of kColumns columns, one after the other: uint8, with one scale per block. `high` is used
// only for 8 bits without VNNI.
struct Columns {
  uint8_t *bytes, *high;
  float* scales;

  static size_t space(size_t size, size_t scales) {
    return 2 * Scratch::padded<uint8_t>(size) + Scratch::padded<float>(scales);
  }

  static Columns take(Scratch& scratch, size_t size, size_t scales) {
    return {scratch.take<uint8_t>(size), scratch.take<uint8_t>(size), scratch.take<float>(scales)};
  }

  void unpack(size_t j, int inner, int bits, const Table& table, const uint8_t* packed) const {
    uint8_t* to = bytes + j * inner;
    if (bits == 4) {
      unpack4(packed, inner, table, to);
    } else if (kDot) {
      std::memcpy(to, packed, inner);
    } else {
      unpack8(packed, inner, high + j * inner, to);
    }
  }
};

// Adds the products of groups of rows and kColumns unpacked columns to `sums`: one register per
// group and column, one lane per row. Two groups fill the registers and share the loaded columns.
// Without VNNI, `fits` sums of two products fit in int16.
template <int block, int groups, int fits>
POCKET_OMNI_ALONE void tile(const Rows* rows, const uint8_t* bytes, const float* scales, int inner,
                            Floats* sums) {
  constexpr int count = groups * kColumns;
  const int blocks = inner / block;
  Floats sum[count] = {};  // not `sums` itself: with 16 registers GCC would spill
  for (int b = 0; b < blocks; b++) {
    Integers total[count];
    for (int part = 0; part < block; part += 4 * fits) {
      Integers products[count];
      const int first = b * block + part;
      POCKET_OMNI_UNROLL
      for (int k = 0; k < 4 * fits; k += 4) {
        Integers row[groups];
        for (int g = 0; g < groups; g++)
          row[g] = load_integers(rows[g].rows + (first + k) * kGroup);
        POCKET_OMNI_UNROLL
        for (int j = 0; j < kColumns; j++) {
          const Integers weights =
              POCKET_OMNI_WIDE(set1_epi32)(word(bytes + j * inner + first + k));
          POCKET_OMNI_UNROLL
          for (int g = 0; g < groups; g++) {
            Integers& each = products[g * kColumns + j];
            each = add_products(k == 0 ? Integers{} : each, weights, row[g]);
          }
        }
        in_order<count>(products);
      }
      POCKET_OMNI_UNROLL
      for (int i = 0; i < count; i++) {
        const Integers found = fours(products[i]);
        total[i] = part == 0 ? found : POCKET_OMNI_WIDE(add_epi32)(total[i], found);
      }
    }
    POCKET_OMNI_UNROLL
    for (int g = 0; g < groups; g++) {
      const Floats scale = load_floats(rows[g].scales + b * kGroup);
      const Floats offset = load_floats(rows[g].offset + b * kGroup);
      POCKET_OMNI_UNROLL
      for (int j = 0; j < kColumns; j++) {
        const int at = g * kColumns + j;
        const Floats product =
            POCKET_OMNI_WIDE(fmsub_ps)(POCKET_OMNI_WIDE(cvtepi32_ps)(total[at]), scale, offset);
        sum[at] = multiply_add(product, broadcast(scales[j * blocks + b]), sum[at]);
      }
    }
  }
  for (int i = 0; i < count; i++) sums[i] += sum[i];
}

}  // namespace block_matmul
