// Asks the operating system which products of int8 an arm64 processor has. One library runs on all.
#pragma once

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
extern "C" __declspec(dllimport) int __stdcall IsProcessorFeaturePresent(unsigned long);
#else
#include <sys/auxv.h>
#endif

namespace arm {

enum class Products {
  kNeon,    // of armv8.0: products in int16
  kDot,     // SDOT: sums of four products
  kMatrix,  // SMMLA: products of 2 x 8 and 8 x 2 values; such processors have SDOT, too
};

#if defined(__APPLE__)
inline bool has(const char* name) {
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname(name, &found, &size, nullptr, 0) == 0 && found != 0;
}
inline bool has_dot() { return has("hw.optional.arm.FEAT_DotProd"); }
inline bool has_matrix() { return has("hw.optional.arm.FEAT_I8MM"); }
#elif defined(_WIN32)
inline bool has_dot() { return IsProcessorFeaturePresent(43) != 0; }     // PF_ARM_V82_DP_...
inline bool has_matrix() { return IsProcessorFeaturePresent(66) != 0; }  // PF_ARM_V82_I8MM_...
#else
inline bool has_dot() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }      // HWCAP_ASIMDDP
inline bool has_matrix() { return (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }  // HWCAP2_I8MM
#endif

inline const Products products = !has_dot()      ? Products::kNeon
                                 : has_matrix() ? Products::kMatrix
                                                : Products::kDot;

}  // namespace arm
