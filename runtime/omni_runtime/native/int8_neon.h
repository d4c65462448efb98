// int8 on arm64: rows are quantized with one scale per block, as in MatMulNBits at accuracy level
// 4, and multiplied by the instructions of the processor.
//
// Products are compiled for each set of instructions, and a call chooses one. The instructions are
// written in assembly, since everything else must run on every processor.
#pragma once

#include <algorithm>

#include "simd.h"

// Makes the assembler accept what the compiler may not use. GNU's accepts the extensions only of a
// later architecture, and then all that CXX may have asked for must be in it.
#ifdef __clang__
#define POCKET_OMNI_ACCEPT(extension) ".arch_extension " extension "\n\t"
#else
#define POCKET_OMNI_ACCEPT(extension) ".arch armv8.6-a+crypto+sve2\n\t"
#endif

namespace block_matmul {

constexpr int kVector = 16;    // int8 values in a register
constexpr bool kDot = true;    // products of 8 bits need no split weights

// The levels that 4-bit indices stand for, within -32 ... 31.
struct Table {
  int8x16_t levels;

  explicit Table(const int8_t* from) : levels(vld1q_s8(from)) {}

  int8x16_t look_up(uint8x16_t indices) const { return vqtbl1q_s8(levels, indices); }
};

inline int8x16_t load_bytes(const void* from) { return vld1q_s8(static_cast<const int8_t*>(from)); }

inline float half(uint16_t value) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(value))), 0);
}

inline float32x4_t halves(const uint16_t* from) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

// Weights of 8 bits as integers around zero.
inline int8x16_t centred(uint8x16_t bytes) {
  return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
}

// Products of armv8.0. Values are within 127, so that two products fit in int16. kDepth: values of
// a row per product of a tile; kBytesZeroPoint: zero point of the weights in `dot_bytes`.
struct Neon {
  static constexpr int kDepth = 4;
  static constexpr int kBytesZeroPoint = 0;

  static int32x4_t dot(int32x4_t sums, int8x16_t weights, int8x16_t values) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(values));
    return vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(weights, values)));
  }

  static int32x4_t dot_bytes(int32x4_t sums, uint8x16_t weights, int8x16_t values) {
    return dot(sums, centred(weights), values);
  }

  template <int lane>
  static int32x4_t dot_lane(int32x4_t sums, int8x16_t values, int8x16_t weights) {
    const int32x4_t four = vdupq_laneq_s32(vreinterpretq_s32_s8(weights), lane);
    return dot(sums, vreinterpretq_s8_s32(four), values);
  }
};

// `volatile` keeps the order of the source in tiles: neighbours do not wait for each other.
struct Dot {
  static constexpr int kDepth = 4;
  static constexpr int kBytesZeroPoint = 0;

  static int32x4_t dot(int32x4_t sums, int8x16_t weights, int8x16_t values) {
    asm(POCKET_OMNI_ACCEPT("dotprod") "sdot %0.4s, %1.16b, %2.16b"
        : "+w"(sums)
        : "w"(weights), "w"(values));
    return sums;
  }

  static int32x4_t dot_bytes(int32x4_t sums, uint8x16_t weights, int8x16_t values) {
    return dot(sums, centred(weights), values);
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
  static constexpr int kBytesZeroPoint = 128;

  // Bytes are multiplied as they are, by USDOT.
  static int32x4_t dot_bytes(int32x4_t sums, uint8x16_t weights, int8x16_t values) {
    asm(POCKET_OMNI_ACCEPT("i8mm") "usdot %0.4s, %1.16b, %2.16b"
        : "+w"(sums)
        : "w"(weights), "w"(values));
    return sums;
  }

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

}  // namespace block_matmul
