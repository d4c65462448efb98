// Products of BlockMatMul: one row times one column, and groups of rows times a few columns.
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
constexpr int kStep = 64;                               // values whose nibbles fill a register
constexpr int kAhead = 3072;                            // prefetch distance in bytes
using Sums = Floats;                                    // one lane per row of a group
constexpr int kGroup = sizeof(Sums) / sizeof(float);    // rows per register of sums
constexpr int kColumns = kDot ? 6 : 3;  // columns of a tile; VNNI has a latency of five products
constexpr int kFewRows = 3;             // up to this many rows, single rows are faster than a group

// Zero point of the stored weights.
constexpr int above(int bits) { return kDot && bits == 8 ? 128 : 8; }

// Converts eight float16 to float32.
inline __m256 halves(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

inline float half(uint16_t value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }

inline float sum(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

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

// Reorders a row for the products of one row: the even ones of each 64 values first, since a byte
// of weights holds an even value in its low nibble and an odd value in its high nibble.
inline void evens_first(int8_t* values) {
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2,
                                         4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  __m256i half[2];
  for (int i = 0; i < 2; i++) {
    const __m256i sorted = _mm256_shuffle_epi8(load(values + kVector * i), order);
    half[i] = _mm256_permute4x64_epi64(sorted, 0xd8);
  }
  auto* to = reinterpret_cast<__m256i*>(values);
  _mm256_storeu_si256(to, _mm256_permute2x128_si256(half[0], half[1], 0x20));
  _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(half[0], half[1], 0x31));
}

// Sums of four products, of one block, or of two blocks of 32, one in each half of the register.
template <int bits, int block>
inline __m256i products(const uint8_t* packed, const int8_t* row) {
  __m256i sums = _mm256_setzero_si256();
  if constexpr (bits == 4) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int i = 0; i < std::max(block, kStep); i += kStep) {  // 16 x 15 x 127 fits: a block of 256
      const __m256i both = load(packed + i / 2);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
      sums = add_products(sums, _mm256_and_si256(both, low), load(row + i));
      sums = add_products(sums, odd, load(row + i + kVector));
    }
    return fours(sums);
  }
  for (int i = 0; i < block; i += kVector) {
    const __m256i weights = load(packed + i), values = load(row + i);
    if constexpr (kDot) {
      sums = add_products(sums, weights, values);
    } else {
      const __m256i zero = _mm256_setzero_si256();
      const __m256i centred = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
      sums = _mm256_add_epi32(sums, fours(add_products(zero, _mm256_abs_epi8(centred),
                                                       _mm256_sign_epi8(values, centred))));
    }
  }
  return sums;
}

// One quantized row: `row` int8 (inner), one scale per block, and per block `offset`: scale times
// sum times the zero point of the weights, which is subtracted from the product.
struct Row {
  int8_t* row;
  float* scales;
  float* offset;
};

template <int block>
void round_row(const float* x, int inner, int bits, const Row& into) {
  const int offset = kDot || bits == 4 ? above(bits) : 0;
  for (int b = 0; b < inner / block; b++) {
    int total;
    into.scales[b] = round_block(x + b * block, block, into.row + b * block, &total);
    into.offset[b] = offset * into.scales[b] * total;
  }
  for (int i = 0; bits == 4 && i < inner; i += kStep) evens_first(into.row + i);
}

inline void prefetch(const uint8_t* from, int bytes) {
  for (int i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + i), _MM_HINT_T0);
  }
}

// Multiplies one row with one column.
template <int bits, int block>
float column(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks) {
  constexpr int once = bits == 4 && block < kStep ? 2 : 1;  // blocks per step
  constexpr int bytes = block * bits / 8;
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  __m256 offsets = _mm256_setzero_ps();
  alignas(32) float both[8];
  const auto step = [&](int b, __m256 scale, __m256 sum) {
    const auto found = products<bits, block>(packed + size_t{bytes} * b, row.row + block * b);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(found), scale, sum);
  };
  int b = 0;
  for (; b + 8 <= blocks; b += 8) {
    const __m256 scale = halves(scales + b);
    const __m256 product = _mm256_mul_ps(scale, _mm256_loadu_ps(row.scales + b));
    offsets = _mm256_fmadd_ps(scale, _mm256_loadu_ps(row.offset + b), offsets);
    prefetch(packed + size_t{bytes} * b, 8 * bytes);
    if constexpr (once == 2) {
      const __m256i first = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
      const __m256i second = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
      const __m256 low = _mm256_permute2f128_ps(product, product, 0x00);
      const __m256 high = _mm256_permute2f128_ps(product, product, 0x11);
      sums[0] = step(b, _mm256_permutevar_ps(low, first), sums[0]);
      sums[1] = step(b + 2, _mm256_permutevar_ps(low, second), sums[1]);
      sums[0] = step(b + 4, _mm256_permutevar_ps(high, first), sums[0]);
      sums[1] = step(b + 6, _mm256_permutevar_ps(high, second), sums[1]);
    } else {
      _mm256_store_ps(both, product);
      POCKET_OMNI_UNROLL
      for (int j = 0; j < 8; j++) {
        sums[j % 2] = step(b + j, _mm256_broadcast_ss(both + j), sums[j % 2]);
      }
    }
  }
  float rest = 0;
  for (; b < blocks; b += once) {
    const int last = b + once - 1;
    const __m256 scale = _mm256_set_m128(_mm_set1_ps(half(scales[last]) * row.scales[last]),
                                         _mm_set1_ps(half(scales[b]) * row.scales[b]));
    sums[0] = step(b, scale, sums[0]);
    for (int i = b; i <= last; i++) rest += half(scales[i]) * row.offset[i];
  }
  return sum(_mm256_sub_ps(_mm256_add_ps(sums[0], sums[1]), offsets)) - rest;
}

constexpr size_t kTogether = 1;  // columns that are multiplied with a row at once

template <int bits, int block>
void few_columns(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks, size_t,
                 float* y) {
  *y = column<bits, block>(packed, scales, row, blocks);
}

// A group of quantized, interleaved rows: `rows` int8 (inner / 4, kGroup, 4), so that a register
// holds four values of each row; `scales` and `offset` float32 (blocks, kGroup) as in Row.
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

// Unpacks a column of 4-bit weights to bytes, in the order of the rows.
inline void unpack4(const uint8_t* packed, int inner, uint8_t* bytes) {
  const __m128i low = _mm_set1_epi8(15);
  for (int k = 0; k < inner; k += kVector, packed += 16, bytes += kVector) {
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    const __m128i even = _mm_and_si128(both, low);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(both, 4), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_unpacklo_epi8(even, odd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + 16), _mm_unpackhi_epi8(even, odd));
  }
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

  void unpack(size_t j, int inner, int bits, const uint8_t* packed) const {
    uint8_t* to = bytes + j * inner;
    if (bits == 4) {
      unpack4(packed, inner, to);
    } else if (kDot) {
      std::memcpy(to, packed, inner);
    } else {
      unpack8(packed, inner, high + j * inner, to);
    }
  }
};

// Adds the products of groups of rows and kColumns unpacked columns to `sums`: one register per
// group and column, one lane per row. Two groups fill the registers and share the loaded columns.
template <int block, int groups>
POCKET_OMNI_ALONE void tile(const Rows* rows, const uint8_t* bytes, const float* scales, int inner,
                            Floats* sums) {
  constexpr int count = groups * kColumns;
  const int blocks = inner / block;
  Floats sum[count] = {};  // not `sums` itself: with 16 registers GCC would spill
  for (int b = 0; b < blocks; b++) {
    Integers total[count];
    for (int part = 0; part < block; part += kVector) {
      Integers products[count];
      const int first = b * block + part;
      POCKET_OMNI_UNROLL
      for (int k = 0; k < kVector; k += 4) {
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
