// Vectors of x86: vector types, int8 products with and without VNNI, and a barrier against register
// spills of GCC. simd.h includes it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

inline __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

inline void store(void* to, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}

// Converts eight float16 to float32.
inline __m256 halves(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// The widest vectors: AVX-512 with VNNI, else AVX2. For each:
//   widen_bytes    zero-extends bytes to int16
//   look_up        replaces each byte 0 ... 15 by that byte of a table
//   half_floats    converts float16 to float32
//   where_greater  selects `yes` where a > b, else `no`, per lane
//   add_products   adds products of bytes to sums, which `fours` converts to int32, one per four
//                  neighbours. With VNNI they are int32 already. Without it, two neighbours are
//                  summed in int16, and the caller must avoid an overflow.
//   byte_products  int32 sums of four products of any bytes; without VNNI, of bytes minus 128
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define POCKET_OMNI_DOT
#define POCKET_OMNI_WIDE(name) _mm512_##name
using Integers = __m512i;
using Floats = __m512;
inline Integers load_integers(const void* from) { return _mm512_loadu_si512(from); }
inline void store_integers(void* to, Integers value) { _mm512_storeu_si512(to, value); }
inline Integers widen_bytes(const void* from) { return _mm512_cvtepu8_epi16(load(from)); }
inline Integers look_up(__m128i table, Integers bytes) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), bytes);
}
inline Floats half_floats(const uint16_t* from) { return _mm512_cvtph_ps(load(from)); }
inline Floats permute(Floats x, Integers lanes) { return _mm512_permutexvar_ps(lanes, x); }
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline Integers bits_and(Integers a, Integers b) { return _mm512_and_si512(a, b); }
inline Integers bits_or(Integers a, Integers b) { return _mm512_or_si512(a, b); }
inline Floats where_greater(Integers a, int b, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(b)), no, yes);
}
inline __m512i add_products(__m512i sums, __m512i bytes, __m512i signed_bytes) {
  return _mm512_dpbusd_epi32(sums, bytes, signed_bytes);
}
inline __m256i add_products(__m256i sums, __m256i bytes, __m256i signed_bytes) {
  return _mm256_dpbusd_epi32(sums, bytes, signed_bytes);
}
#else
#define POCKET_OMNI_WIDE(name) _mm256_##name
using Integers = __m256i;
using Floats = __m256;
inline Integers load_integers(const void* from) { return load(from); }
inline void store_integers(void* to, Integers value) { store(to, value); }
inline Integers widen_bytes(const void* from) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}
inline Integers look_up(__m128i table, Integers bytes) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), bytes);
}
inline Floats half_floats(const uint16_t* from) { return halves(from); }
inline Floats permute(Floats x, Integers lanes) { return _mm256_permutevar8x32_ps(x, lanes); }
inline float sum(Floats v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
inline Integers bits_and(Integers a, Integers b) { return _mm256_and_si256(a, b); }
inline Integers bits_or(Integers a, Integers b) { return _mm256_or_si256(a, b); }
inline Floats where_greater(Integers a, int b, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, (Floats)_mm256_cmpgt_epi32(a, _mm256_set1_epi32(b)));
}
inline __m256i add_products(__m256i sums, __m256i bytes, __m256i signed_bytes) {
#ifdef __AVXVNNI__
#define POCKET_OMNI_DOT
  return _mm256_dpbusd_avx_epi32(sums, bytes, signed_bytes);
#else
  return _mm256_add_epi16(sums, _mm256_maddubs_epi16(bytes, signed_bytes));
#endif
}
#endif

#ifdef POCKET_OMNI_DOT
constexpr bool kDot = true;
template <class Sums>
inline Sums fours(Sums sums) {
  return sums;
}
inline Integers byte_products(Integers bytes, Integers signed_bytes) {
  return add_products(Integers{}, bytes, signed_bytes);
}
#else
constexpr bool kDot = false;
inline __m256i fours(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
// 255 times 127 twice does not fit in int16: the bytes become signed, and give away their signs.
inline __m256i byte_products(__m256i bytes, __m256i signed_bytes) {
  const __m256i centred = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
  return fours(
      add_products(__m256i{}, _mm256_abs_epi8(centred), _mm256_sign_epi8(signed_bytes, centred)));
}
#endif

inline Floats broadcast(float x) { return POCKET_OMNI_WIDE(set1_ps)(x); }
inline Floats load_floats(const float* from) { return POCKET_OMNI_WIDE(loadu_ps)(from); }
inline void store_floats(float* to, Floats x) { POCKET_OMNI_WIDE(storeu_ps)(to, x); }
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return POCKET_OMNI_WIDE(fmadd_ps)(a, b, c);
}

inline Floats larger(Floats a, Floats b) { return POCKET_OMNI_WIDE(max_ps)(a, b); }
inline Integers nearest(Floats x) { return POCKET_OMNI_WIDE(cvtps_epi32)(x); }
inline Floats as_floats(Integers x) { return POCKET_OMNI_WIDE(cvtepi32_ps)(x); }
// Multiplies with 2 to the power of an integer, which is added to the exponent.
inline Floats scale_by_power(Floats x, Integers power) {
  const Integers shifted = POCKET_OMNI_WIDE(slli_epi32)(power, 23);
  return (Floats)POCKET_OMNI_WIDE(add_epi32)((Integers)x, shifted);
}

// Converts eight int8 to float32.
inline void eight_as_floats(const int8_t* from, float* to) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)));
}

using Four = __m128;
inline Four load_four(const float* from) { return _mm_loadu_ps(from); }
inline void store_four(float* to, Four x) { _mm_storeu_ps(to, x); }
inline void transpose(Four* rows) { _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]); }

// The first `count` values, and zeros.
inline Floats some_half_floats(const uint16_t* from, int count) {
  uint16_t copy[sizeof(Floats) / sizeof(float)] = {};
  std::memcpy(copy, from, count * sizeof(uint16_t));
  return half_floats(copy);
}
inline Integers some_integers(const void* from, int bytes) {
  uint8_t copy[sizeof(Integers)] = {};
  std::memcpy(copy, from, bytes);
  return load_integers(copy);
}

inline int32_t word(const void* from) {
  int32_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Forces GCC to keep all sums in registers. Otherwise it computes all products of a tile first and
// spills, which takes 1.8 times as long. VNNI products accumulate directly and need no barrier.
template <int count, class Sums>
inline void in_order([[maybe_unused]] Sums* p) {
#if defined(__GNUC__) && !defined(POCKET_OMNI_DOT)
  if constexpr (count == 3) asm volatile("" : "+x"(p[0]), "+x"(p[1]), "+x"(p[2]));
  if constexpr (count == 6) {
    asm volatile("" : "+x"(p[0]), "+x"(p[1]), "+x"(p[2]), "+x"(p[3]), "+x"(p[4]), "+x"(p[5]));
  }
  if constexpr (count == 8) {
    asm volatile(""
                 : "+x"(p[0]), "+x"(p[1]), "+x"(p[2]), "+x"(p[3]), "+x"(p[4]), "+x"(p[5]),
                   "+x"(p[6]), "+x"(p[7]));
  }
#endif
}
