// Chooses the vector instructions of the kernels: AVX2 and above by the flags of the compiler, or
// NEON, which every arm64 processor has. Neither is defined elsewhere; ONNX functions then run.
#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define POCKET_OMNI_AVX2
#elif (defined(__aarch64__) || defined(_M_ARM64)) && (defined(__GNUC__) || defined(__clang__))
#define POCKET_OMNI_NEON
#endif

#if defined(__GNUC__) || defined(POCKET_OMNI_NEON)
#define POCKET_OMNI_UNROLL _Pragma("GCC unroll 8")
#define POCKET_OMNI_ALONE __attribute__((noinline))
#define POCKET_OMNI_INLINE inline __attribute__((always_inline))
#else
#define POCKET_OMNI_UNROLL
#define POCKET_OMNI_ALONE
#endif

#ifdef POCKET_OMNI_AVX2
#define POCKET_OMNI_SIMD
#include "vectors_x86.h"
#endif

#ifdef POCKET_OMNI_NEON
#define POCKET_OMNI_SIMD
#include "vectors_neon.h"
#endif
