// Vectors of arm64: eight float32 or int32 in two registers of NEON, and which products of int8 the
// processor has. simd.h includes it.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "arm_features.h"

struct Integers {
  int32x4_t low, high;
};

struct Floats {
  float32x4_t low, high;
};

inline Floats operator+(Floats a, Floats b) { return {a.low + b.low, a.high + b.high}; }
inline Floats operator-(Floats a, Floats b) { return {a.low - b.low, a.high - b.high}; }
inline Floats operator*(Floats a, Floats b) { return {a.low * b.low, a.high * b.high}; }
inline Floats& operator+=(Floats& a, Floats b) { return a = a + b; }

inline Floats broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline Floats load_floats(const float* from) { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
inline void store_floats(float* to, Floats x) {
  vst1q_f32(to, x.low);
  vst1q_f32(to + 4, x.high);
}
inline Integers load_integers(const int32_t* from) {
  return {vld1q_s32(from), vld1q_s32(from + 4)};
}
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
// Selects `yes` where a > b, else `no`, per lane.
inline Floats where_greater(Integers a, int b, Floats yes, Floats no) {
  const int32x4_t most = vdupq_n_s32(b);
  return {vbslq_f32(vcgtq_s32(a.low, most), yes.low, no.low),
          vbslq_f32(vcgtq_s32(a.high, most), yes.high, no.high)};
}
inline Floats larger(Floats a, Floats b) {
  return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)};
}
inline Integers nearest(Floats x) { return {vcvtnq_s32_f32(x.low), vcvtnq_s32_f32(x.high)}; }
inline Floats as_floats(Integers x) { return {vcvtq_f32_s32(x.low), vcvtq_f32_s32(x.high)}; }
// Multiplies with 2 to the power of an integer, which is added to the exponent.
inline float32x4_t scale_by_power(float32x4_t x, int32x4_t power) {
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(power, 23)));
}
inline Floats scale_by_power(Floats x, Integers power) {
  return {scale_by_power(x.low, power.low), scale_by_power(x.high, power.high)};
}

// Converts eight int8 to float32.
inline void eight_as_floats(const int8_t* from, float* to) {
  const int16x8_t wide = vmovl_s8(vld1_s8(from));
  vst1q_f32(to, vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))));
  vst1q_f32(to + 4, vcvtq_f32_s32(vmovl_high_s16(wide)));
}

using Four = float32x4_t;
inline Four load_four(const float* from) { return vld1q_f32(from); }
inline void store_four(float* to, Four x) { vst1q_f32(to, x); }
inline void transpose(Four* rows) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
  rows[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  rows[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  rows[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  rows[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
