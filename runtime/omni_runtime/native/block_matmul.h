// Rows of float32 times a matrix of 4- or 8-bit integers with one scale for each block of a column.
//
// Weights are read as MatMulNBits stores them, straight from the mapped file. Rows are rounded to
// int8, with one scale for each block, as MatMulNBits does at accuracy level 4.
#pragma once

#include "ort.h"
#include "scratch.h"
#include "vectors.h"

#ifdef POCKET_OMNI_AVX2

#include <algorithm>
#include <cmath>
#include <cstring>

namespace block_matmul {

constexpr int kVector = 32;   // int8 values in a register
constexpr int kStep = 64;     // values whose nibbles fill a register
constexpr int kAhead = 3072;  // bytes that memory is asked for beforehand
constexpr int kGroup = 8;     // rows that share a register of sums
constexpr int kColumns = 3;   // columns of a tile
constexpr int kOffset4 = 8;   // what the stored nibbles are above the weights
constexpr int kFewRows = 3;   // up to here, row by row is faster than a group of eight

// Eight float16 as float32.
inline __m256 halves(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

inline float half(uint16_t value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }

inline float sum(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

// sums + products * scale, of int16 sums of products in pairs
inline __m256 scaled(__m256i pairs, __m256 scale, __m256 sums) {
  const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(fours), scale, sums);
}

// Rounds a block to int8. Returns its scale; `total` becomes the sum of the integers.
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
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs works by halves
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + i),
                        _mm256_permutevar8x32_epi32(packed, order));
  }
  alignas(32) int32_t counts[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(counts), totals);
  *total =
      counts[0] + counts[1] + counts[2] + counts[3] + counts[4] + counts[5] + counts[6] + counts[7];
  return reach / 127;
}

// A row as the products of one row want it: of each 64 values the even ones first, as a byte of
// weights holds an even one below and an odd one above.
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

// int16 sums of products, of a block or of two blocks of 32, whose sums lie in the two halves.
// 16 x 15 x 127 still fits: a block of 256.
template <int block>
inline __m256i products4(const uint8_t* packed, const int8_t* row) {
  const __m256i low = _mm256_set1_epi8(15);
  __m256i pairs = _mm256_setzero_si256();
  for (int i = 0; i < std::max(block, kStep); i += kStep) {
    const __m256i both = load(packed + i / 2);
    const __m256i even = _mm256_and_si256(both, low);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(even, load(row + i)));
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(odd, load(row + i + kVector)));
  }
  return pairs;
}

// One row, rounded: `row` int8 (inner), a scale for each block, and `offset`, for each block 8
// times its scale and its sum, which is what storing nibbles from 0 to 15 adds to a product.
struct Row {
  int8_t* row;
  float* scales;
  float* offset;
};

template <int block>
void round_row(const float* x, int inner, int bits, const Row& into) {
  for (int b = 0; b < inner / block; b++) {
    int total;
    into.scales[b] = round_block(x + b * block, block, into.row + b * block, &total);
    into.offset[b] = kOffset4 * into.scales[b] * total;
  }
  for (int i = 0; bits == 4 && i < inner; i += kStep) evens_first(into.row + i);
}

inline void prefetch(const uint8_t* from, int bytes) {
  for (int i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + i), _MM_HINT_T0);
  }
}

// One row times one column of 4 bits.
template <int block>
float column4(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks) {
  constexpr int once = block < kStep ? 2 : 1;  // blocks of a step
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  __m256 offsets = _mm256_setzero_ps();
  alignas(32) float both[8];
  const auto step = [&](int b, __m256 scale, __m256 sum) {
    return scaled(products4<block>(packed + size_t{block / 2} * b, row.row + block * b), scale,
                  sum);
  };
  int b = 0;
  for (; b + 8 <= blocks; b += 8) {
    const __m256 scale = halves(scales + b);
    const __m256 product = _mm256_mul_ps(scale, _mm256_loadu_ps(row.scales + b));
    offsets = _mm256_fmadd_ps(scale, _mm256_loadu_ps(row.offset + b), offsets);
    prefetch(packed + size_t{block / 2} * b, 8 * block / 2);
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

// One row times one column of 8 bits, stored 128 above the weights.
template <int block>
float column8(const uint8_t* packed, const uint16_t* scales, const Row& row, int blocks) {
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  const __m256i top = _mm256_set1_epi8(-128);
  const auto step = [&](int b, __m256 scale) {
    for (int i = 0; i < block; i += kVector) {
      const __m256i weight = _mm256_xor_si256(load(packed + size_t{block} * b + i), top);
      const __m256i value = _mm256_sign_epi8(load(row.row + block * b + i), weight);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), value);
      sums[b % 2] = scaled(pairs, scale, sums[b % 2]);
    }
  };
  alignas(32) float both[8];
  int b = 0;
  for (; b + 8 <= blocks; b += 8) {
    _mm256_store_ps(both, _mm256_mul_ps(halves(scales + b), _mm256_loadu_ps(row.scales + b)));
    prefetch(packed + size_t{block} * b, 8 * block);
    POCKET_OMNI_UNROLL
    for (int j = 0; j < 8; j++) step(b + j, _mm256_broadcast_ss(both + j));
  }
  for (; b < blocks; b++) step(b, _mm256_set1_ps(half(scales[b]) * row.scales[b]));
  return sum(_mm256_add_ps(sums[0], sums[1]));
}

// Eight rows, rounded and interleaved: `rows` int8 (inner / 4, 8, 4), so that one register holds
// four values of each row; `scales` and `offset` float32 (blocks, 8), as in Row.
struct Rows {
  int8_t* rows;
  float* scales;
  float* offset;
};

template <int block>
void round_rows(const float* x, int count, int inner, const Rows& into) {
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
      into.offset[b * kGroup + m] = kOffset4 * scale * total;
    }
    int8_t* to = into.rows + size_t{kGroup * block} * b;
    for (int k = 0; k < block; k += 4) {
      for (int m = 0; m < kGroup; m++, to += 4) std::memcpy(to, &values[m][k], 4);
    }
  }
}

// A column of nibbles as bytes in the order of the rows.
inline void unpack(const uint8_t* packed, int inner, uint8_t* bytes) {
  const __m128i low = _mm_set1_epi8(15);
  for (int k = 0; k < inner; k += kVector, packed += 16, bytes += kVector) {
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    const __m128i even = _mm_and_si128(both, low);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(both, 4), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_unpacklo_epi8(even, odd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + 16), _mm_unpackhi_epi8(even, odd));
  }
}

// A column of bytes as two of nibbles, which are 8 above what they stand for: a weight is 16 times
// the one and once the other. `high` reaches 16, whose products still fit.
inline void unpack8(const uint8_t* packed, int inner, uint8_t* high, uint8_t* low) {
  const __m256i nibble = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
  const auto upper = [&](__m256i bytes) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
  };
  for (int k = 0; k < inner; k += kVector) {
    const __m256i bytes = load(packed + k);
    const __m256i below = _mm256_add_epi8(_mm256_and_si256(bytes, nibble), eight);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + k),
                        _mm256_add_epi8(upper(bytes), upper(below)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + k), _mm256_and_si256(below, nibble));
  }
}

// Groups of eight rows times three unpacked columns: a register of `sums` for each group and
// column, a lane a row. Two groups fill the registers and share what is read of the columns.
template <int block, int groups>
POCKET_OMNI_ALONE void tile(const Rows* rows, const uint8_t* bytes, const float* scales, int inner,
                            __m256* sums) {
  const int blocks = inner / block;
  const __m256i one = _mm256_set1_epi16(1);
  __m256 sum[groups * kColumns];
  for (auto& each : sum) each = _mm256_setzero_ps();
  for (int b = 0; b < blocks; b++) {
    __m256i total[groups * kColumns];
    for (int part = 0; part < block; part += kVector) {
      __m256i pairs[groups * kColumns];
      const int first = b * block + part;
      POCKET_OMNI_UNROLL
      for (int k = 0; k < kVector; k += 4) {
        __m256i row[groups];
        for (int g = 0; g < groups; g++) row[g] = load(rows[g].rows + (first + k) * kGroup);
        POCKET_OMNI_UNROLL
        for (int j = 0; j < kColumns; j++) {
          const __m256i weights = _mm256_set1_epi32(word(bytes + j * inner + first + k));
          POCKET_OMNI_UNROLL
          for (int g = 0; g < groups; g++) {
            const __m256i product = _mm256_maddubs_epi16(weights, row[g]);
            __m256i& pair = pairs[g * kColumns + j];
            pair = k == 0 ? product : _mm256_add_epi16(pair, product);
          }
        }
        in_order<groups * kColumns>(pairs);
      }
      POCKET_OMNI_UNROLL
      for (int j = 0; j < groups * kColumns; j++) {
        const __m256i fours = _mm256_madd_epi16(pairs[j], one);
        total[j] = part == 0 ? fours : _mm256_add_epi32(total[j], fours);
      }
    }
    POCKET_OMNI_UNROLL
    for (int g = 0; g < groups; g++) {
      const __m256 scale = _mm256_loadu_ps(rows[g].scales + b * kGroup);
      const __m256 offset = _mm256_loadu_ps(rows[g].offset + b * kGroup);
      POCKET_OMNI_UNROLL
      for (int j = 0; j < kColumns; j++) {
        const int at = g * kColumns + j;
        const __m256 product = _mm256_fmsub_ps(_mm256_cvtepi32_ps(total[at]), scale, offset);
        sum[at] = _mm256_fmadd_ps(product, _mm256_broadcast_ss(scales + j * blocks + b), sum[at]);
      }
    }
  }
  std::copy_n(sum, groups * kColumns, sums);
}

}  // namespace block_matmul

class BlockMatMul {
 public:
  static constexpr const char* kName = "BlockMatMul";
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};
  // rows (..., inner); packed weights (outer, blocks, block * bits / 8); scales float16
  // (outer, blocks)
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat16};

  explicit BlockMatMul(const void* info)
      : inner_(static_cast<int>(ort::attribute(info, "K"))),
        outer_(static_cast<size_t>(ort::attribute(info, "N"))),
        bits_(static_cast<int>(ort::attribute(info, "bits"))),
        block_(static_cast<int>(ort::attribute(info, "block_size"))) {}

  void run(const ort::Context& context) const {
    auto shape = context.shape(0);
    shape.back() = static_cast<int64_t>(outer_);
    size_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); i++) rows *= static_cast<size_t>(shape[i]);
    const Work work{context.input<float>(0), context.input<uint8_t>(1), context.input<uint16_t>(2),
                    context.output<float>(0, shape), rows};
    switch (block_) {
      case 32: return multiply<32>(context, work);
      case 64: return multiply<64>(context, work);
      case 128: return multiply<128>(context, work);
      default: return multiply<256>(context, work);
    }
  }

 private:
  static constexpr size_t kShare = 48;  // columns that a thread takes at once

  struct Work {
    const float* x;
    const uint8_t* packed;
    const uint16_t* scales;  // float16
    float* y;
    size_t rows;
  };

  template <int block>
  void multiply(const ort::Context& context, const Work& work) const {
    if (work.rows > block_matmul::kFewRows) return many<block>(context, work);
    for (size_t m = 0; m < work.rows; m++) one<block>(context, work, m);
  }

  template <int block>
  void one(const ort::Context& context, const Work& work, size_t m) const {
    using namespace block_matmul;
    thread_local Scratch scratch;
    const int blocks = inner_ / block;
    scratch.reserve(Scratch::padded<int8_t>(inner_) + 2 * Scratch::padded<float>(blocks));
    const Row row{scratch.take<int8_t>(inner_), scratch.take<float>(blocks),
                  scratch.take<float>(blocks)};
    round_row<block>(work.x + m * inner_, inner_, bits_, row);
    const size_t column = static_cast<size_t>(inner_) * bits_ / 8;
    shared(context, [&](size_t start, size_t stop) {
      for (size_t n = start; n < stop; n++) {
        const uint8_t* packed = work.packed + n * column;
        const uint16_t* scales = work.scales + n * blocks;
        work.y[m * outer_ + n] = bits_ == 4 ? column4<block>(packed, scales, row, blocks)
                                            : column8<block>(packed, scales, row, blocks);
      }
    });
  }

  template <int block>
  void many(const ort::Context& context, const Work& work) const {
    using namespace block_matmul;
    thread_local Scratch scratch;
    const size_t groups = (work.rows + kGroup - 1) / kGroup;
    const size_t values = size_t(inner_) * kGroup, scales = size_t(inner_ / block) * kGroup;
    scratch.reserve(groups *
                    (Scratch::padded<int8_t>(values) + 2 * Scratch::padded<float>(scales)));
    std::vector<Rows> all(groups);
    for (Rows& rows : all) {
      rows = {scratch.take<int8_t>(values), scratch.take<float>(scales),
              scratch.take<float>(scales)};
    }
    context.parallel(groups, [&](size_t g) {
      const size_t first = g * kGroup;
      const int count = static_cast<int>(std::min<size_t>(kGroup, work.rows - first));
      round_rows<block>(work.x + first * inner_, count, inner_, all[g]);
    });
    shared(context, [&](size_t start, size_t stop) { columns<block>(work, all, start, stop); });
  }

  template <int block>
  void columns(const Work& work, const std::vector<block_matmul::Rows>& all, size_t start,
               size_t stop) const {
    using namespace block_matmul;
    thread_local Scratch scratch;
    const size_t blocks = inner_ / block;
    const size_t column = size_t(inner_) * bits_ / 8, size = size_t(inner_) * kColumns;
    scratch.reserve(2 * Scratch::padded<uint8_t>(size) + Scratch::padded<float>(blocks * kColumns));
    uint8_t* bytes = scratch.take<uint8_t>(size);
    uint8_t* high = scratch.take<uint8_t>(size);  // of 8 bits only
    float* scales = scratch.take<float>(blocks * kColumns);
    for (size_t n = start; n < stop; n += kColumns) {
      const size_t wide = std::min<size_t>(kColumns, stop - n);
      for (size_t j = 0; j < kColumns; j++) {
        const size_t which = n + std::min(j, wide - 1);  // the last one again, to fill the tile
        const uint8_t* packed = work.packed + which * column;
        if (bits_ == 4) unpack(packed, inner_, bytes + j * inner_);
        if (bits_ == 8) unpack8(packed, inner_, high + j * inner_, bytes + j * inner_);
        std::transform(work.scales + which * blocks, work.scales + (which + 1) * blocks,
                       scales + j * blocks, half);
      }
      size_t g = 0;
      for (; g + 2 <= all.size(); g += 2)
        tiles<block, 2>(work, all, g, n, wide, bytes, high, scales);
      if (g < all.size()) tiles<block, 1>(work, all, g, n, wide, bytes, high, scales);
    }
  }

  template <int block, int groups>
  void tiles(const Work& work, const std::vector<block_matmul::Rows>& all, size_t group, size_t n,
             size_t wide, const uint8_t* bytes, const uint8_t* high, const float* scales) const {
    using namespace block_matmul;
    __m256 sums[groups * kColumns], more[groups * kColumns];
    tile<block, groups>(&all[group], bytes, scales, inner_, sums);
    if (bits_ == 8) {
      tile<block, groups>(&all[group], high, scales, inner_, more);
      for (int i = 0; i < groups * kColumns; i++) {
        sums[i] = _mm256_fmadd_ps(_mm256_set1_ps(16), more[i], sums[i]);
      }
    }
    for (int g = 0; g < groups; g++) store(work, group + g, n, wide, sums + g * kColumns);
  }

  void store(const Work& work, size_t group, size_t n, size_t wide, const __m256* sums) const {
    using namespace block_matmul;
    alignas(32) float lanes[kColumns][kGroup];
    for (int j = 0; j < kColumns; j++) _mm256_store_ps(lanes[j], sums[j]);
    const size_t first = group * kGroup;
    for (size_t m = 0; m < std::min<size_t>(kGroup, work.rows - first); m++) {
      for (size_t j = 0; j < wide; j++) work.y[(first + m) * outer_ + n + j] = lanes[j][m];
    }
  }

  // body(start, stop) over all columns, in shares.
  template <class Body>
  void shared(const ort::Context& context, const Body& body) const {
    context.parallel((outer_ + kShare - 1) / kShare, [&](size_t share) {
      body(share * kShare, std::min(outer_, (share + 1) * kShare));
    });
  }

  int inner_;
  size_t outer_;
  int bits_, block_;
};

#endif  // POCKET_OMNI_AVX2
