// What the products of integers share: AVX2 registers, and how GCC is kept from spilling them.
#pragma once

#ifdef POCKET_OMNI_AVX2

#if defined(__GNUC__)
#define POCKET_OMNI_UNROLL _Pragma("GCC unroll 8")
#define POCKET_OMNI_ALONE __attribute__((noinline))
#else
#define POCKET_OMNI_UNROLL
#define POCKET_OMNI_ALONE
#endif

#include <immintrin.h>

#include <cstdint>
#include <cstring>

inline __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

inline void store(void* to, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}

inline int32_t word(const void* from) {
  int32_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Left to itself, GCC computes all products of a tile first and runs out of registers: 1.8 times
// the time. Here it must have all sums at once.
template <int count>
inline void in_order(__m256i* p) {
#if defined(__GNUC__)
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

#endif  // POCKET_OMNI_AVX2
