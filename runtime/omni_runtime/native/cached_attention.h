// Grouped-query attention with rotary positions over a KV cache that is extended in place.
//
// Queries that share a key head are in the lanes of one register, so each key and value is read
// once for all of them. Softmax is computed online (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018). A long context is split into shares that run in parallel.
//
// An int8 cache has one scale per channel. The scales of the keys are multiplied into the queries
// and those of the values into the result, so the integers of the cache are used directly.
#pragma once

#include "ort.h"
#include "scratch.h"
#include "simd.h"

#ifdef POCKET_OMNI_SIMD

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace cached_attention {

constexpr size_t kLanes = sizeof(Floats) / sizeof(float);
constexpr size_t kTile = 64;       // keys per tile of scores
constexpr size_t kShare = 256;     // minimum keys per share
constexpr size_t kEnough = 16;     // tasks that are enough for all cores
constexpr float kUnseen = -1e30f;  // score of a masked key: below all others, but finite

// Clamped at 1e-35: negligible beside the largest weight, 1, and above slow subnormal numbers.
inline Floats exponential(Floats x) {
  x = larger(x, broadcast(-80));
  const Integers power = nearest(x * broadcast(1.44269504f));
  const Floats turns = as_floats(power);
  Floats r = multiply_add(turns, broadcast(-0.693359375f), x);
  r = multiply_add(turns, broadcast(2.12194440e-4f), r);  // ln 2, split in two for precision
  Floats sum = broadcast(1.0f / 5040);
  for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    sum = multiply_add(sum, r, broadcast(term));
  }
  return scale_by_power(sum, power);
}

// Partial result of a share of the keys: the maximum score, the sum of the exponentials relative to
// it, and the weighted values, float32 (head_dim, kLanes).
struct Partial {
  float* largest;
  float* total;
  float* values;
};

// Scaled queries, float32 (head_dim, kLanes). Query i attends to the keys before `ends[i]`.
struct Queries {
  const float* lanes;
  int32_t ends[kLanes];
};

// Returns elements of a cache as float32, converted into `room` if they are int8.
inline const float* floats(const float* from, size_t, float*) { return from; }

inline const float* floats(const int8_t* from, size_t count, float* room) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) eight_as_floats(from + i, room + i);
  for (; i < count; i++) room[i] = from[i];
  return room;
}

template <class Element>
class Share {
 public:
  // `room` holds eight keys.
  Share(const Queries& queries, const Element* keys, const Element* values, size_t width,
        float* room, const Partial& into)
      : queries_(queries), keys_(keys), values_(values), width_(width), room_(room), into_(into) {
    std::fill_n(into.largest, kLanes, kUnseen);
    std::fill_n(into.total, kLanes, 0.0f);
    std::fill_n(into.values, width * kLanes, 0.0f);
  }

  void over(size_t first, size_t last) const {
    for (size_t t = first; t < last; t += kTile) tile(t, std::min(kTile, last - t));
  }

 private:
  void tile(size_t first, size_t count) const {
    alignas(64) float scores[kTile][kLanes];
    size_t t = 0;
    for (; t + 8 <= count; t += 8) score<8>(keys_ + (first + t) * width_, scores[t]);
    for (; t < count; t++) score<1>(keys_ + (first + t) * width_, scores[t]);
    const Integers ends = load_integers(queries_.ends);
    const Floats before = load_floats(into_.largest);
    Floats largest = before;
    for (t = 0; t < count; t++) {
      const Floats score = where_greater(ends, static_cast<int>(first + t), load_floats(scores[t]),
                                         broadcast(kUnseen));
      store_floats(scores[t], score);
      largest = larger(largest, score);
    }
    // A query without any key so far has no maximum score.
    const Floats base = larger(largest, broadcast(kUnseen / 2));
    const Floats shrink = exponential(before - base);
    Floats total = load_floats(into_.total) * shrink;
    for (t = 0; t < count; t++) {
      const Floats weight = exponential(load_floats(scores[t]) - base);
      store_floats(scores[t], weight);
      total += weight;
    }
    store_floats(into_.largest, largest);
    store_floats(into_.total, total);
    if (std::memcmp(&before, &largest, sizeof before) != 0) {
      for (size_t d = 0; d < width_; d++) {
        float* sum = into_.values + d * kLanes;
        store_floats(sum, load_floats(sum) * shrink);
      }
    }
    for (t = 0; t + 8 <= count; t += 8) weigh<8>(values_ + (first + t) * width_, scores[t]);
    for (; t < count; t++) weigh<1>(values_ + (first + t) * width_, scores[t]);
  }

  template <size_t many>
  void score(const Element* stored, float* scores) const {
    const float* keys = floats(stored, many * width_, room_);
    Floats sums[many] = {};
    for (size_t d = 0; d < width_; d++) {
      const Floats query = load_floats(queries_.lanes + d * kLanes);
      for (size_t i = 0; i < many; i++) {
        sums[i] = multiply_add(broadcast(keys[i * width_ + d]), query, sums[i]);
      }
    }
    for (size_t i = 0; i < many; i++) store_floats(scores + i * kLanes, sums[i]);
  }

  template <size_t many>
  void weigh(const Element* stored, const float* weights) const {
    const float* values = floats(stored, many * width_, room_);
    Floats weight[many];
    for (size_t i = 0; i < many; i++) weight[i] = load_floats(weights + i * kLanes);
    for (size_t d = 0; d < width_; d++) {
      Floats sum = load_floats(into_.values + d * kLanes);
      for (size_t i = 0; i < many; i++) {
        sum = multiply_add(broadcast(values[i * width_ + d]), weight[i], sum);
      }
      store_floats(into_.values + d * kLanes, sum);
    }
  }

  const Queries& queries_;
  const Element* keys_;
  const Element* values_;
  size_t width_;
  float* room_;
  Partial into_;
};

// Merges the partial result of another share.
inline void merge(const Partial& into, const Partial& other, size_t width) {
  const Floats mine = load_floats(into.largest), theirs = load_floats(other.largest);
  const Floats largest = larger(mine, theirs);
  const Floats a = exponential(mine - largest), b = exponential(theirs - largest);
  const auto add = [&](float* to, const float* from) {
    store_floats(to, multiply_add(load_floats(to), a, load_floats(from) * b));
  };
  store_floats(into.largest, largest);
  add(into.total, other.total);
  for (size_t d = 0; d < width; d++) add(into.values + d * kLanes, other.values + d * kLanes);
}

// Rotates both halves of a head by the angles of its position (RoPE).
inline void rotate(const float* from, const float* cos, const float* sin, size_t width, float* to) {
  const size_t half = width / 2;
  for (size_t i = 0; i < half; i++) {
    const float a = from[i], b = from[i + half];
    to[i] = a * cos[i] - b * sin[i];
    to[i + half] = b * cos[i] + a * sin[i];
  }
}

// Stores a head in the cache. `scales` is null for a float32 cache.
inline void store(const float* head, const float*, size_t width, float* to) {
  std::copy_n(head, width, to);
}

inline void store(const float* head, const float* scales, size_t width, int8_t* to) {
  for (size_t d = 0; d < width; d++) {
    const float rounded = std::nearbyint(head[d] / scales[d]);
    to[d] = static_cast<int8_t>(std::clamp(rounded, -128.0f, 127.0f));
  }
}

}  // namespace cached_attention

// The kernel for one element type of the cache.
template <class Element>
class AttentionOver {
 public:
  explicit AttentionOver(const void* info)
      : heads_(static_cast<size_t>(ort::attribute(info, "num_heads", 1, kMostHeads))),
        kv_heads_(static_cast<size_t>(ort::attribute(info, "kv_num_heads", 1, kMostHeads))) {
    ort::require(heads_ % kv_heads_ == 0, "num_heads must be a multiple of kv_num_heads");
  }

  void run(const ort::Context& context) const {
    const auto packed = context.shape(0), past = context.shape(1);
    check(context, packed, past);
    Step step;
    step.rows = static_cast<size_t>(packed[1]);
    step.capacity = static_cast<size_t>(past[2]);
    step.width = static_cast<size_t>(past[3]);
    step.total = static_cast<size_t>(*context.input<int32_t>(4));
    step.packed = context.input<float>(0);
    step.cos = context.input<float>(5);
    step.sin = context.input<float>(6);
    if constexpr (kScaled) step.key_scales = context.input<float>(7);
    if constexpr (kScaled) step.value_scales = context.input<float>(8);
    step.output =
        context.output<float>(0, {1, packed[1], static_cast<int64_t>(heads_ * step.width)});
    step.keys = context.output<Element>(1, past);
    step.values = context.output<Element>(2, past);
    const size_t size = kv_heads_ * step.capacity * step.width;
    for (const auto& [to, from] : {std::pair(step.keys, context.input<Element>(1)),
                                   std::pair(step.values, context.input<Element>(2))}) {
      if (to != from) std::copy_n(from, size, to);  // otherwise the output is the cache itself
    }
    append(step);
    attend(context, step);
  }

 private:
  static constexpr bool kScaled = std::is_same_v<Element, int8_t>;
  static constexpr int64_t kMostHeads = 1024, kMostWidth = 4096;

  // Throws unless all shapes fit each other and the new rows fit into the cache.
  void check(const ort::Context& context, const std::vector<int64_t>& packed,
             const std::vector<int64_t>& past) const {
    using ort::elements;
    using ort::require;
    const auto heads = static_cast<int64_t>(heads_), kv_heads = static_cast<int64_t>(kv_heads_);
    require(past.size() == 4 && past[0] == 1 && past[1] == kv_heads,
            "the cache must be (1, kv_num_heads, capacity, head_dim)");
    const int64_t capacity = past[2], width = past[3];
    require(width > 0 && width % 2 == 0 && width <= kMostWidth,
            "head_dim must be even");
    require(context.shape(2) == past, "keys and values must have one shape");
    require(packed.size() == 3 && packed[0] == 1 && packed[2] == (heads + 2 * kv_heads) * width,
            "packed rows must be (1, rows, (num_heads + 2 kv_num_heads) * head_dim)");
    const int64_t total = *context.input<int32_t>(4, 1, "total_length must be one number");
    const int64_t last = *context.input<int32_t>(3, 1, "last_position must be one number");
    require(0 < packed[1] && packed[1] <= total && total <= capacity && last == total - 1,
            "the rows do not fit into the cache");
    for (const size_t index : {5, 6}) {
      const auto table = context.shape(index);
      require(table.size() == 2 && table[0] >= total && table[1] == width / 2,
              "cos and sin must be (capacity, head_dim / 2)");
    }
    if constexpr (kScaled) {
      for (const size_t index : {7, 8}) {
        require(elements(context.shape(index)) == kv_heads * width,
                "there must be a scale for each channel of each head");
      }
    }
  }

  struct Step {
    size_t rows, capacity, width, total;
    const float *packed, *cos, *sin;
    const float *key_scales = nullptr, *value_scales = nullptr;
    float* output;
    Element *keys, *values;

    size_t first() const { return total - rows; }  // position of the first new row
  };

  const float* head(const Step& step, size_t row, size_t index) const {
    return step.packed + (row * (heads_ + 2 * kv_heads_) + index) * step.width;
  }

  // Returns the scales of one head.
  static const float* scales(const Step& step, const float* all, size_t kv_head) {
    return kScaled ? all + kv_head * step.width : nullptr;
  }

  void append(const Step& step) const {
    using namespace cached_attention;
    thread_local Scratch scratch;
    scratch.reserve(Scratch::padded<float>(step.width));
    float* turned = scratch.take<float>(step.width);
    for (size_t row = 0; row < step.rows; row++) {
      const size_t slot = step.first() + row, angles = slot * (step.width / 2);
      for (size_t h = 0; h < kv_heads_; h++) {
        const size_t place = (h * step.capacity + slot) * step.width;
        rotate(head(step, row, heads_ + h), step.cos + angles, step.sin + angles, step.width,
               turned);
        store(turned, scales(step, step.key_scales, h), step.width, step.keys + place);
        store(head(step, row, heads_ + kv_heads_ + h), scales(step, step.value_scales, h),
              step.width, step.values + place);
      }
    }
  }

  void attend(const ort::Context& context, const Step& step) const {
    using namespace cached_attention;
    thread_local Scratch scratch;
    const size_t groups = (step.rows * (heads_ / kv_heads_) + kLanes - 1) / kLanes;
    const size_t tasks = kv_heads_ * groups;
    const size_t wanted = (kEnough + tasks - 1) / tasks;
    const size_t shares = std::clamp<size_t>(step.total / kShare, 1, wanted);
    const size_t floats = (step.width + 2) * kLanes;
    scratch.reserve(Scratch::padded<float>(tasks * shares * floats));
    float* memory = scratch.take<float>(tasks * shares * floats);
    const auto partial = [=](size_t task, size_t share) {
      float* here = memory + (task * shares + share) * floats;
      return Partial{here, here + kLanes, here + 2 * kLanes};
    };
    context.parallel(tasks * shares, [&](size_t index) {
      const size_t task = index / shares, share = index % shares;
      this->share(step, task / groups, task % groups, share, shares, partial(task, share));
    });
    context.parallel(tasks, [&](size_t task) {
      const Partial all = partial(task, 0);
      for (size_t share = 1; share < shares; share++) {
        merge(all, partial(task, share), step.width);
      }
      write(step, task / groups, task % groups, all);
    });
  }

  // Returns the row and query head of a lane; the row is past the end if the lane is unused.
  std::pair<size_t, size_t> query(size_t kv_head, size_t group, size_t lane) const {
    const size_t each = heads_ / kv_heads_, index = group * cached_attention::kLanes + lane;
    return {index / each, kv_head * each + index % each};
  }

  void share(const Step& step, size_t kv_head, size_t group, size_t share, size_t shares,
             const cached_attention::Partial& into) const {
    using namespace cached_attention;
    thread_local Scratch scratch;
    scratch.reserve(2 * Scratch::padded<float>(step.width * kLanes) +
                    Scratch::padded<float>(step.width));
    float* lanes = scratch.take<float>(step.width * kLanes);
    float* room = scratch.take<float>(step.width * kLanes);
    float* turned = scratch.take<float>(step.width);
    const float* channels = scales(step, step.key_scales, kv_head);
    Queries queries{lanes, {}};
    std::fill_n(queries.ends, kLanes, INT32_MAX);  // unused lanes attend to everything
    size_t end = 0;
    const float scale = 1 / std::sqrt(static_cast<float>(step.width));
    for (size_t lane = 0; lane < kLanes; lane++) {
      const auto [row, index] = query(kv_head, group, lane);
      const bool real = row < step.rows;
      if (real) {
        const size_t slot = step.first() + row, angles = slot * (step.width / 2);
        rotate(head(step, row, index), step.cos + angles, step.sin + angles, step.width, turned);
        end = slot + 1;
        queries.ends[lane] = static_cast<int32_t>(end);
      }
      for (size_t d = 0; d < step.width; d++) {
        lanes[d * kLanes + lane] = real ? turned[d] * scale * (kScaled ? channels[d] : 1) : 0;
      }
    }
    const size_t each = (end + shares - 1) / shares;
    const size_t heads = kv_head * step.capacity * step.width;
    const Share<Element> part(queries, step.keys + heads, step.values + heads, step.width, room,
                              into);
    part.over(std::min(end, share * each), std::min(end, (share + 1) * each));
  }

  void write(const Step& step, size_t kv_head, size_t group,
             const cached_attention::Partial& all) const {
    using namespace cached_attention;
    const float* channels = scales(step, step.value_scales, kv_head);
    for (size_t lane = 0; lane < kLanes; lane++) {
      const auto [row, index] = query(kv_head, group, lane);
      if (row >= step.rows) return;
      float* to = step.output + (row * heads_ + index) * step.width;
      for (size_t d = 0; d < step.width; d++) {
        to[d] = all.values[d * kLanes + lane] / all.total[lane] * (kScaled ? channels[d] : 1);
      }
    }
  }

  size_t heads_, kv_heads_;
};

struct CachedAttention : AttentionOver<float> {
  using AttentionOver::AttentionOver;
  static constexpr const char* kName = "CachedAttention";
  // (1, rows, heads * head_dim), present key and value
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kFloat, ort::kFloat};
  // packed queries, keys and values (1, rows, (heads + 2 kv_heads) * head_dim); past key and value
  // (1, kv_heads, capacity, head_dim); last position, total length; cos, sin (capacity, head_dim /
  // 2)
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat, ort::kInt32,
                                                 ort::kInt32, ort::kFloat, ort::kFloat};
};

struct Int8CachedAttention : AttentionOver<int8_t> {
  using AttentionOver::AttentionOver;
  static constexpr const char* kName = "Int8CachedAttention";
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kInt8, ort::kInt8};
  // As above, and scales of keys and values (1, kv_heads, 1, head_dim)
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt8,  ort::kInt8,
                                                 ort::kInt32, ort::kInt32, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat};
};

#endif  // POCKET_OMNI_SIMD
