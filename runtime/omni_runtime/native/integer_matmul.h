// Multiplies many float32 rows with an int8 matrix that has one scale per column.
//
// Each block of 64 values of a row is quantized to 0 ... 90 with its own step and minimum:
//   y[m, n] = scale[n] * sum over blocks b of (step[m, b] * integers + least[m, b] * total[n, b])
// plus bias[n] if there is a bias; total is the sum of a column's weights in the block. Weights are
// read directly from the mapped file. Each thread interleaves its columns in scratch memory.
//
// The ONNX function of the same name (omni_quantize/dynamic.py) quantizes all rows with one scale
// to 0 ... 255, so the results differ by more than rounding. Relative error against float32 with
// weights of 64 levels and 1280 and 3420 inputs (tests/engine/test_kernels.py checks the bounds):
//                                        kernel    function   kernel to function
//   normal rows                          2.2 %     1.9 %      1.8 %
//   four input channels 30 times larger  3.0 %     9 - 17 %   9 - 17 %
//   beside rows 30 times larger          2.2 %     23 - 27 %  23 - 27 %
#pragma once

#include "ort.h"
#include "scratch.h"
#include "simd.h"

#ifdef POCKET_OMNI_AVX2

#include <algorithm>

namespace integer_matmul {

constexpr int kBlock = 64;
constexpr int kRows = 4;      // rows per tile
constexpr int kColumns = 16;  // columns per tile; its sums fill half of the registers
constexpr int kSums = 2 * kRows;
constexpr int kPanels = 4;        // panels per thread,
constexpr int kHeld = 192 << 10;  // and their maximum bytes, to stay in the core's cache
constexpr int kWidest = kPanels * kColumns;

// Sums of products stay in int16 as long as they fit: while the weights of one sign in them add up
// to at most kFits. One product of four always fits, and two fit if weights are within 64. Eight
// fit in 98 % of the panels of 1024 rows if weights are roughly normal; in none with 127 levels.
constexpr int kLevels = 90;
constexpr int kFits = 32767 / kLevels;

// Quantized rows: `values` uint8 (rows, inner), with inner padded to whole blocks; `steps` and
// `least` float32 (rows, blocks).
struct Rows {
  uint8_t* values;
  float *steps, *least;

  Rows from(size_t row, size_t blocks) const {
    return {values + row * blocks * kBlock, steps + row * blocks, least + row * blocks};
  }
};

// A panel of 16 columns: `weights` int8 (inner / 4, 16, 4), so that a register holds four values of
// eight columns; `totals` float32 (blocks, 16). The first `wide` columns are used, the others are
// zero. `sums`: how many products of four fit into int16 together.
struct Panel {
  int8_t* weights;
  float* totals;
  __m256 scale[2], bias[2];
  int wide, sums;
};

template <class Choose>
inline float across(__m256 v, const Choose& choose) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, v);
  return *choose(lanes, lanes + 8);
}

inline void round_block(const float* x, uint8_t* values, float* step, float* least) {
  __m256 low = _mm256_loadu_ps(x), high = low;
  for (int i = 8; i < kBlock; i += 8) {
    low = _mm256_min_ps(low, _mm256_loadu_ps(x + i));
    high = _mm256_max_ps(high, _mm256_loadu_ps(x + i));
  }
  *least = across(low, std::min_element<float*>);
  *step = (across(high, std::max_element<float*>) - *least) / kLevels;
  const __m256 inverse = _mm256_set1_ps(*step > 0 ? 1 / *step : 0);
  const __m256 base = _mm256_set1_ps(*least);
  for (int i = 0; i < kBlock; i += 32) {
    __m256i part[4];
    for (int j = 0; j < 4; j++) {
      const __m256 above = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), base);
      part[j] = _mm256_cvtps_epi32(_mm256_mul_ps(above, inverse));
    }
    const __m256i packed = _mm256_packus_epi16(_mm256_packs_epi32(part[0], part[1]),
                                               _mm256_packs_epi32(part[2], part[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs within halves
    store(values + i, _mm256_permutevar8x32_epi32(packed, order));
  }
}

inline void round_row(const float* x, int inner, const Rows& into) {
  int b = 0;
  for (; (b + 1) * kBlock <= inner; b++) {
    round_block(x + b * kBlock, into.values + b * kBlock, into.steps + b, into.least + b);
  }
  if (const int rest = inner - b * kBlock; rest > 0) {
    float filled[kBlock];  // padded without changing minimum or maximum; weights are zero there
    std::fill(std::copy_n(x + b * kBlock, rest, filled), filled + kBlock, x[b * kBlock]);
    round_block(filled, into.values + b * kBlock, into.steps + b, into.least + b);
  }
}

// Interleaves four rows of 16 weights by column: eight columns per register.
inline void interleave(const int8_t* weights, __m256i* into) {
  __m128i rows[4];
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm_load_si128(reinterpret_cast<const __m128i*>(weights + i * kWidest));
  }
  const __m128i a = _mm_unpacklo_epi8(rows[0], rows[1]), b = _mm_unpacklo_epi8(rows[2], rows[3]);
  const __m128i c = _mm_unpackhi_epi8(rows[0], rows[1]), d = _mm_unpackhi_epi8(rows[2], rows[3]);
  into[0] = _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
  into[1] = _mm256_set_m128i(_mm_unpackhi_epi16(c, d), _mm_unpacklo_epi16(c, d));
}

// Packs a panel, block by block.
class Packing {
 public:
  explicit Packing(Panel* panel) : panel_(panel) {}

  // `weights` int8 (kBlock, kWidest); the panel is the first columns.
  void block(int b, const int8_t* weights) {
    int8_t* to = panel_->weights + b * kBlock * kColumns;
    __m256i totals[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int k = 0; k < kBlock; k += 32, to += 8 * 64) eight(weights + k * kWidest, to, totals);
    for (int half = 0; half < 2; half++) {
      const __m256i sums = _mm256_madd_epi16(totals[half], _mm256_set1_epi16(1));
      _mm256_storeu_ps(panel_->totals + b * kColumns + 8 * half, _mm256_cvtepi32_ps(sums));
    }
  }

  void done() { panel_->sums = above(eights_) <= kFits ? 8 : above(twos_) <= kFits ? 2 : 1; }

 private:
  // Eight times four rows. Sums the weights of each sign to find which sums of products fit.
  void eight(const int8_t* weights, int8_t* to, __m256i* totals) {
    const __m256i one = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
    __m256i plus[2] = {zero, zero}, minus[2] = {zero, zero}, twos = twos_;
    for (int step = 0; step < 8; step += 2, to += 2 * 64) {
      __m256i plus_two[2] = {zero, zero}, minus_two[2] = {zero, zero};
      POCKET_OMNI_UNROLL
      for (int i = 0; i < 2; i++, weights += 4 * kWidest) {
        __m256i columns[2];
        interleave(weights, columns);
        for (int half = 0; half < 2; half++) {
          store(to + 64 * i + 32 * half, columns[half]);
          const __m256i all = _mm256_maddubs_epi16(one, columns[half]);
          const __m256i up = _mm256_maddubs_epi16(one, _mm256_max_epi8(columns[half], zero));
          plus_two[half] = _mm256_add_epi16(plus_two[half], up);
          minus_two[half] = _mm256_add_epi16(minus_two[half], _mm256_sub_epi16(up, all));
        }
      }
      for (int half = 0; half < 2; half++) {
        twos = _mm256_max_epi16(twos, _mm256_max_epi16(plus_two[half], minus_two[half]));
        plus[half] = _mm256_add_epi16(plus[half], plus_two[half]);
        minus[half] = _mm256_add_epi16(minus[half], minus_two[half]);
      }
    }
    twos_ = twos;
    for (int half = 0; half < 2; half++) {
      eights_ = _mm256_max_epi16(eights_, _mm256_max_epi16(plus[half], minus[half]));
      totals[half] = _mm256_add_epi16(totals[half], _mm256_sub_epi16(plus[half], minus[half]));
    }
  }

  static int above(__m256i largest) {
    alignas(32) int16_t lanes[16];
    store(lanes, largest);
    return *std::max_element(lanes, lanes + 16);
  }

  Panel* panel_;
  __m256i twos_ = _mm256_setzero_si256();    // largest sum of two products of four
  __m256i eights_ = _mm256_setzero_si256();  // largest sum of eight
};

// Multiplies four rows with a panel: two registers of `into` per row.
template <int sums>
POCKET_OMNI_ALONE void tile(const Rows& rows, const Panel& panel, int blocks, __m256* into) {
  const size_t inner = size_t(blocks) * kBlock;
  const __m256i one = _mm256_set1_epi16(1);
  const int8_t* weights = panel.weights;
  __m256 sum[kSums];
  for (auto& each : sum) each = _mm256_setzero_ps();
  for (int b = 0; b < blocks; b++) {
    __m256i total[kSums];
    for (int part = 0; part < kBlock; part += 4 * sums) {
      const uint8_t* values = rows.values + b * kBlock + part;
      __m256i pairs[kSums];
      POCKET_OMNI_UNROLL
      for (int k = 0; k < sums; k++, weights += 64) {
        const __m256i columns[2] = {load(weights), load(weights + 32)};
        POCKET_OMNI_UNROLL
        for (int r = 0; r < kRows; r++) {
          const __m256i row = _mm256_set1_epi32(word(values + r * inner + 4 * k));
          POCKET_OMNI_UNROLL
          for (int half = 0; half < 2; half++) {
            const __m256i product = _mm256_maddubs_epi16(row, columns[half]);
            __m256i& pair = pairs[2 * r + half];
            pair = k == 0 ? product : _mm256_add_epi16(pair, product);
          }
        }
        in_order<kSums>(pairs);
      }
      POCKET_OMNI_UNROLL
      for (int i = 0; i < kSums; i++) {
        const __m256i fours = _mm256_madd_epi16(pairs[i], one);
        total[i] = part == 0 ? fours : _mm256_add_epi32(total[i], fours);
      }
    }
    POCKET_OMNI_UNROLL
    for (int r = 0; r < kRows; r++) {
      const __m256 step = _mm256_broadcast_ss(rows.steps + r * blocks + b);
      const __m256 least = _mm256_broadcast_ss(rows.least + r * blocks + b);
      POCKET_OMNI_UNROLL
      for (int half = 0; half < 2; half++) {
        __m256& each = sum[2 * r + half];
        each = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[2 * r + half]), step, each);
        const __m256 columns = _mm256_loadu_ps(panel.totals + b * kColumns + 8 * half);
        each = _mm256_fmadd_ps(least, columns, each);
      }
    }
  }
  std::copy_n(sum, kSums, into);
}

}  // namespace integer_matmul

class IntegerMatMul {
 public:
  static constexpr const char* kName = "IntegerMatMul";
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};
  // rows (..., inner); weights int8 (inner, outer); scale (outer) or (); zero points, all zero
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt8, ort::kFloat, ort::kInt8};

  explicit IntegerMatMul(const void*, bool biased = false) : biased_(biased) {}

  void run(const ort::Context& context) const {
    using namespace integer_matmul;
    thread_local Scratch scratch;
    auto shape = context.shape(0);
    const auto matrix = context.shape(1), scale = context.shape(2);
    ort::require(matrix.size() == 2 && matrix[0] > 0 && matrix[0] <= kMost && matrix[1] > 0,
                 "the weights must be a matrix");
    ort::require(!shape.empty() && shape.back() == matrix[0], "rows and weights do not fit");
    ort::require(ort::elements(scale) == (scale.empty() ? 1 : matrix[1]),
                 "there must be one scale, or one a column");
    if (biased_) context.input<float>(4, matrix[1], "there must be one bias a column");
    const auto rows = static_cast<size_t>(ort::elements(shape) / matrix[0]);
    shape.back() = matrix[1];
    Work work;
    work.inner = static_cast<int>(matrix[0]);
    work.outer = static_cast<size_t>(matrix[1]);
    work.blocks = (work.inner + kBlock - 1) / kBlock;
    work.rows = rows;
    work.x = context.input<float>(0);
    work.weights = context.input<int8_t>(1);
    work.scale = context.input<float>(2);
    work.scales = scale.empty() ? 0 : 1;
    work.bias = biased_ ? context.input<float>(4) : nullptr;
    work.y = context.output<float>(0, shape);
    if (work.rows == 0) return;
    const size_t tiles = (work.rows + kRows - 1) / kRows, blocks = work.blocks;
    const size_t values = tiles * kRows * blocks * kBlock, scales = tiles * kRows * blocks;
    scratch.reserve(Scratch::padded<uint8_t>(values) + 2 * Scratch::padded<float>(scales));
    work.rounded = {scratch.take<uint8_t>(values), scratch.take<float>(scales),
                    scratch.take<float>(scales)};
    context.parallel(tiles, [&](size_t index) {
      for (size_t row = index * kRows; row < (index + 1) * kRows; row++) {
        // repeats the last row to fill the tile
        const float* x = work.x + std::min(row, work.rows - 1) * work.inner;
        round_row(x, work.inner, work.rounded.from(row, blocks));
      }
    });
    const size_t held = kHeld / (blocks * kBlock * kColumns);
    const size_t share = std::clamp<size_t>(held, 1, kPanels) * kColumns;
    context.parallel((work.outer + share - 1) / share, [&](size_t index) {
      columns(work, index * share, std::min(work.outer, (index + 1) * share));
    });
  }

 private:
  static constexpr int64_t kMost = 1 << 24;  // rows of the weights

  struct Work {
    const float* x;
    const int8_t* weights;
    const float* scale;
    size_t scales;      // stride of the scales
    const float* bias;  // or null
    float* y;
    size_t rows, outer;
    int inner, blocks;
    integer_matmul::Rows rounded;
  };

  static void columns(const Work& work, size_t start, size_t stop) {
    using namespace integer_matmul;
    thread_local Scratch scratch;
    const size_t weights = size_t(work.blocks) * kBlock * kColumns;
    const size_t totals = size_t(work.blocks) * kColumns;
    scratch.reserve(kPanels * (Scratch::padded<int8_t>(weights) + Scratch::padded<float>(totals)));
    Panel panels[kPanels];
    size_t count = 0;
    for (size_t n = start; n < stop; n += kColumns) {
      Panel& panel = panels[count++];
      panel.weights = scratch.take<int8_t>(weights);
      panel.totals = scratch.take<float>(totals);
      panel.wide = static_cast<int>(std::min<size_t>(kColumns, stop - n));
      float scale[kColumns] = {}, bias[kColumns] = {};
      for (int i = 0; i < panel.wide; i++) {
        scale[i] = work.scale[(n + i) * work.scales];
        if (work.bias != nullptr) bias[i] = work.bias[n + i];
      }
      for (int half = 0; half < 2; half++) {
        panel.scale[half] = _mm256_loadu_ps(scale + 8 * half);
        panel.bias[half] = _mm256_loadu_ps(bias + 8 * half);
      }
    }
    pack(work, start, stop - start, panels);
    // Adjacent columns one after the other, to write complete cache lines of `y`.
    for (size_t m = 0; m < work.rows; m += kRows) {
      for (size_t i = 0; i < count; i++) {
        product(work, panels[i], m, work.y + m * work.outer + start + i * kColumns);
      }
    }
  }

  // Copies each block first, so that its rows do not compete for the same cache lines; padding is
  // zero.
  static void pack(const Work& work, size_t start, size_t wide, integer_matmul::Panel* panels) {
    using namespace integer_matmul;
    alignas(64) int8_t copy[kBlock][kWidest] = {};
    std::vector<Packing> packings;
    for (size_t n = 0; n < wide; n += kColumns) packings.emplace_back(panels++);
    for (int b = 0; b < work.blocks; b++) {
      const int rows = std::min(kBlock, work.inner - b * kBlock);
      if (rows < kBlock) std::memset(copy, 0, sizeof copy);
      for (int k = 0; k < rows; k++) {
        const int8_t* from = work.weights + (size_t(b) * kBlock + k) * work.outer + start;
        _mm_prefetch(reinterpret_cast<const char*>(from + kBlock * work.outer), _MM_HINT_T1);
        wide == kWidest ? std::memcpy(copy[k], from, kWidest) : std::memcpy(copy[k], from, wide);
      }
      for (size_t i = 0; i < packings.size(); i++) packings[i].block(b, copy[0] + i * kColumns);
    }
    for (Packing& packing : packings) packing.done();
  }

  static void product(const Work& work, const integer_matmul::Panel& panel, size_t m, float* y) {
    using namespace integer_matmul;
    const Rows rows = work.rounded.from(m, work.blocks);
    __m256 sums[kSums];
    switch (panel.sums) {
      case 8: tile<8>(rows, panel, work.blocks, sums); break;
      case 2: tile<2>(rows, panel, work.blocks, sums); break;
      default: tile<1>(rows, panel, work.blocks, sums);
    }
    const int count = static_cast<int>(std::min<size_t>(kRows, work.rows - m));
    for (int r = 0; r < count; r++) {
      float* to = y + r * work.outer;
      float lanes[kColumns];
      float* into = panel.wide == kColumns ? to : lanes;
      for (int half = 0; half < 2; half++) {
        const __m256 sum = sums[2 * r + half];
        _mm256_storeu_ps(into + 8 * half,
                         _mm256_fmadd_ps(sum, panel.scale[half], panel.bias[half]));
      }
      if (into == lanes) std::copy_n(lanes, panel.wide, to);
    }
  }

  bool biased_;
};

// The same with a bias (outer), as a separate operator: inputs of a function cannot be optional.
class BiasedIntegerMatMul : public IntegerMatMul {
 public:
  static constexpr const char* kName = "BiasedIntegerMatMul";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt8, ort::kFloat, ort::kInt8,
                                                 ort::kFloat};

  explicit BiasedIntegerMatMul(const void* info) : IntegerMatMul(info, true) {}
};

#endif  // POCKET_OMNI_AVX2
