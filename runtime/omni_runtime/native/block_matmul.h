// Multiplies float32 rows with a matrix of 4- or 8-bit integers that has one scale per block of a
// column. Weights are in the layout of MatMulNBits and are read directly from the mapped file. With
// 4 bits they are indices of 16 levels: -8 ... 7 (BlockMatMul), or those of an input (TableMatMul).
#pragma once

#include "ort.h"
#include "scratch.h"
#include "simd.h"

#ifdef POCKET_OMNI_SIMD

#ifdef POCKET_OMNI_AVX2
#include "row_products_x86.h"
#else
#include "block_products_neon.h"
#include "row_products_neon.h"
#endif

#include <algorithm>
#include <cstring>
#include <vector>

class BlockMatMul {
 public:
  static constexpr const char* kName = "BlockMatMul";
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};
  // rows (..., inner); packed weights (outer, blocks, block * bits / 8); scales float16
  // (outer, blocks)
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat16};

  explicit BlockMatMul(const void* info)
      : BlockMatMul(info, static_cast<int>(ort::attribute(info, "bits", 4, 8))) {}

  void run(const ort::Context& context) const {
    static constexpr int8_t kUniform[] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    run(context, block_matmul::Table(kUniform));
  }

 protected:
  BlockMatMul(const void* info, int bits)
      : inner_(static_cast<int>(ort::attribute(info, "K", 1, kMost))),
        outer_(static_cast<size_t>(ort::attribute(info, "N", 1, kMost))),
        bits_(bits),
        block_(static_cast<int>(ort::attribute(info, "block_size", 32, 256))) {
    ort::require(bits_ == 4 || bits_ == 8, "bits must be 4 or 8");
    ort::require((block_ & (block_ - 1)) == 0, "block_size must be 32, 64, 128 or 256");
    ort::require(inner_ % block_ == 0, "K must be a multiple of block_size");
  }

  void run(const ort::Context& context, const block_matmul::Table& table) const {
    auto shape = context.shape(0);
    ort::require(!shape.empty() && shape.back() == inner_, "the rows must have K values");
    const auto outer = static_cast<int64_t>(outer_);
    const size_t rows = static_cast<size_t>(ort::elements(shape) / inner_);
    shape.back() = outer;
    const int64_t blocks = inner_ / block_;
    const Work work{
        context.input<float>(0),
        context.input<uint8_t>(1, outer * inner_ * bits_ / 8, "the packed weights must be N x K"),
        context.input<uint16_t>(2, outer * blocks, "there must be N scales for each block"),
        context.output<float>(0, shape), rows, table};
    if (rows == 0) return;
    switch (block_) {
      case 32:
        return multiply<32>(context, work);
      case 64:
        return multiply<64>(context, work);
      case 128:
        return multiply<128>(context, work);
      default:
        return multiply<256>(context, work);
    }
  }

 private:
  static constexpr int64_t kMost = 1 << 24;      // rows and columns of a matrix
  static constexpr size_t kShare = 48;           // columns per task of a thread
  static constexpr size_t kHeld = 512 << 10;     // bytes of rows that fit in a core's L2 cache
  static constexpr int kPart = 256;              // values per part, a multiple of the block size

  struct Work {
    const float* x;
    const uint8_t* packed;
    const uint16_t* scales;  // float16
    float* y;
    size_t rows;
    block_matmul::Table table;
  };

  template <int block>
  void multiply(const ort::Context& context, const Work& work) const {
    if (work.rows > row_products::kFew) return many<block>(context, work);
    return bits_ == 4 ? few<4, block>(context, work) : few<8, block>(context, work);
  }

  template <int bits, int block>
  void few(const ort::Context& context, const Work& work) const {
    const auto rows = rounded<bits, block>(work, 0);
    shared(context, [&](size_t start, size_t stop) {
      few_columns<bits, block>(work, rows, 0, start, stop);
    });
  }

  // Quantizes the rows from `first` on. They stay valid until the thread's next call.
  template <int bits, int block>
  std::vector<row_products::Row> rounded(const Work& work, size_t first) const {
    using namespace row_products;
    thread_local Scratch scratch;
    const size_t values = padded(inner_, step(bits)), blocks = padded(inner_ / block, kLanes);
    std::vector<Row> rows(work.rows - first);
    scratch.reserve(rows.size() *
                    (Scratch::padded<int8_t>(values) + 2 * Scratch::padded<float>(blocks)));
    for (size_t m = 0; m < rows.size(); m++) {
      rows[m] = {scratch.take<int8_t>(values), scratch.take<float>(blocks),
                 scratch.take<float>(blocks)};
      round_row<block>(work.x + (first + m) * inner_, inner_, bits, rows[m]);
    }
    return rows;
  }

  // Multiplies columns start ... stop with `rows`, which are those from `first` on.
  template <int bits, int block>
  void few_columns(const Work& work, const std::vector<row_products::Row>& rows, size_t first,
                   size_t start, size_t stop) const {
    using namespace row_products;
    const size_t stride = static_cast<size_t>(inner_) * bits / 8, scales = inner_ / block;
    float* const y = work.y + first * outer_;
    size_t n = start;
    for (; rows.size() == 1 && n + kTogether <= stop; n += kTogether) {
      columns_of_row<bits, block>(work.packed + n * stride, work.scales + n * scales, work.table,
                                  rows[0], inner_, y + n);
    }
    for (; n < stop; n++) {
      for (size_t m = 0; m < rows.size(); m += kRows) {
        group<bits, block>(work, n, &rows[m], std::min<size_t>(kRows, rows.size() - m),
                           y + m * outer_ + n);
      }
    }
  }

  // Multiplies column n with 1 ... kRows rows.
  template <int bits, int block>
  void group(const Work& work, size_t n, const row_products::Row* rows, size_t count,
             float* y) const {
    using namespace row_products;
    static_assert(kRows == 4);
    const uint8_t* packed = work.packed + n * (static_cast<size_t>(inner_) * bits / 8);
    const uint16_t* scales = work.scales + n * (inner_ / block);
    float* const each[] = {y, y + outer_, y + 2 * outer_, y + 3 * outer_};
    switch (count) {
      case 1:
        return column<bits, block, 1>(packed, scales, work.table, rows, inner_, each);
      case 2:
        return column<bits, block, 2>(packed, scales, work.table, rows, inner_, each);
      case 3:
        return column<bits, block, 3>(packed, scales, work.table, rows, inner_, each);
      default:
        return column<bits, block, 4>(packed, scales, work.table, rows, inner_, each);
    }
  }

  template <int block>
  void many(const ort::Context& context, const Work& work) const {
    return bits_ == 4 ? many<4, block>(context, work) : many<8, block>(context, work);
  }

  // Whole groups of rows in tiles. A few rows behind them are faster column by column, while the
  // columns are in the core's cache.
  template <int bits, int block>
  void many(const ort::Context& context, const Work& work) const {
    using namespace block_matmul;
    thread_local Scratch scratch;
    const size_t behind = work.rows % kGroup, rest = behind <= row_products::kRest ? behind : 0;
    const size_t tiled = work.rows - rest, groups = (tiled + kGroup - 1) / kGroup;
    const size_t values = size_t(inner_) * kGroup, scales = size_t(inner_ / block) * kGroup;
    scratch.reserve(groups * Rows::space(values, scales));
    std::vector<Rows> all(groups);
    for (Rows& rows : all) rows = Rows::take(scratch, values, scales);
    context.parallel(groups, [&](size_t g) {
      const size_t first = g * kGroup;
      const int count = static_cast<int>(std::min<size_t>(kGroup, tiled - first));
      round_rows<block>(work.x + first * inner_, count, inner_, bits, all[g]);
    });
    const auto few = rounded<bits, block>(work, tiled);
    shared(context, [&](size_t start, size_t stop) {
      columns<block>(work, all, start, stop);
      if (rest > 0) few_columns<bits, block>(work, few, tiled, start, stop);
    });
  }

  // Computes columns start ... stop, one part of their length at a time, so that all rows of a part
  // stay in the core's cache. Sums are buffered until complete cache lines of `y` can be written.
  template <int block>
  void columns(const Work& work, const std::vector<block_matmul::Rows>& all, size_t start,
               size_t stop) const {
    using namespace block_matmul;
    thread_local Scratch scratch;
    const int most = std::max<int>(kHeld / (all.size() * kGroup) / kPart, 1) * kPart;
    const size_t size = size_t(std::min(most, inner_)) * kColumns, scales = size / block;
    const size_t tiles = (stop - start + kColumns - 1) / kColumns;
    const size_t sums = tiles * all.size() * kColumns;
    scratch.reserve(Columns::space(size, scales) + Scratch::padded<Sums>(sums));
    const Columns here = Columns::take(scratch, size, scales);
    Sums* held = scratch.take<Sums>(sums);
    std::fill_n(held, sums, Sums{});
    for (int first = 0; first < inner_; first += most) {
      const int part = std::min(most, inner_ - first);
      Sums* into = held;
      for (size_t n = start; n < stop; n += kColumns, into += all.size() * kColumns) {
        unpack<block>(work, n, stop, first, part, here);
        size_t g = 0;
        for (; g + 2 <= all.size(); g += 2)
          tiles_of<block, 2>(&all[g], here, first, part, into + g * kColumns);
        if (g < all.size()) tiles_of<block, 1>(&all[g], here, first, part, into + g * kColumns);
      }
    }
    for (size_t g = 0; g < all.size(); g++) store(work, all.size(), g, start, stop, held);
  }

  // Multiplies values first ... first + part of the columns n ... n + kColumns.
  template <int block>
  void unpack(const Work& work, size_t n, size_t stop, int first, int part,
              const block_matmul::Columns& into) const {
    const size_t blocks = inner_ / block, stride = size_t(inner_) * bits_ / 8;
    for (size_t j = 0; j < block_matmul::kColumns; j++) {
      const size_t which = std::min(n + j, stop - 1);  // repeats the last column to fill the tile
      into.unpack(j, part, bits_, work.table,
                  work.packed + which * stride + size_t(first) * bits_ / 8);
      block_matmul::unpack_scales(work.scales + which * blocks + first / block, part / block,
                                  into.scales + j * (part / block));
    }
  }

  template <int block, int groups>
  void tiles_of(const block_matmul::Rows* all, const block_matmul::Columns& columns, int first,
                int part, block_matmul::Sums* sums) const {
    using namespace block_matmul;
    Rows rows[groups];
    for (int g = 0; g < groups; g++) rows[g] = all[g].from<block>(first);
    if (!kDot && bits_ == 8) {
      Sums more[groups * kColumns] = {};
      tile<block, groups, 8>(rows, columns.high, columns.scales, part, more);
      for (int i = 0; i < groups * kColumns; i++) sums[i] += 16.0f * more[i];
    }
    if (kDot || bits_ == 8) return tile<block, groups, 8>(rows, columns.bytes, columns.scales, part, sums);
    tile<block, groups, 2>(rows, columns.bytes, columns.scales, part, sums);
  }

  // Writes the sums of a group of rows. `held` has one lane per row, so 4 x 4 tiles are transposed.
  void store(const Work& work, size_t groups, size_t group, size_t start, size_t stop,
             const block_matmul::Sums* held) const {
    using namespace block_matmul;
    const auto lanes = [&](size_t c) {
      const Sums* found = held + (c / kColumns * groups + group) * kColumns + c % kColumns;
      return reinterpret_cast<const float*>(found);
    };
    const size_t first = group * kGroup, wide = stop - start;
    const size_t rows = std::min<size_t>(kGroup, work.rows - first);
    for (size_t m = 0; m < rows; m += 4) {
      float* to = work.y + (first + m) * outer_ + start;
      for (size_t c = 0; c < wide; c += 4) {
        Four four[4];
        for (size_t i = 0; i < 4; i++) four[i] = load_four(lanes(std::min(c + i, wide - 1)) + m);
        transpose(four);
        for (size_t i = 0; i < std::min<size_t>(4, rows - m); i++) {
          if (c + 4 <= wide) {
            store_four(to + i * outer_ + c, four[i]);
          } else {
            std::memcpy(to + i * outer_ + c, &four[i], (wide - c) * sizeof(float));
          }
        }
      }
    }
  }

  // Calls body(start, stop) for all columns, in parallel.
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

class TableMatMul : public BlockMatMul {
 public:
  static constexpr const char* kName = "TableMatMul";
  // the inputs of BlockMatMul with 4 bits, and levels int8 (16)
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat16, ort::kInt8};

  explicit TableMatMul(const void* info) : BlockMatMul(info, 4) {}

  void run(const ort::Context& context) const {
    const int8_t* levels = context.input<int8_t>(3, 16, "there must be 16 levels");
    ort::require(std::all_of(levels, levels + 16, [](int8_t x) { return -32 <= x && x < 32; }),
                 "levels must be within -32 ... 31");
    BlockMatMul::run(context, block_matmul::Table(levels));
  }
};

#endif  // POCKET_OMNI_SIMD
