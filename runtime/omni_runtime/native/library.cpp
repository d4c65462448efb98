// ONNX Runtime calls RegisterCustomOps when a session loads the library. A node whose operator is
// not registered here is expanded to the function of that name in the model.
#include "anti_aliased_snake.h"
#include "block_matmul.h"
#include "cached_attention.h"
#include "integer_matmul.h"
#include "ort.h"

namespace {

ort::Operator operators[] = {
    ort::operator_of<AntiAliasedSnake>(),
#ifdef POCKET_OMNI_SIMD
    ort::operator_of<BlockMatMul>(),
    ort::operator_of<TableMatMul>(),
    ort::operator_of<CachedAttention>(),
    ort::operator_of<Int8CachedAttention>(),
#endif
#if defined(POCKET_OMNI_AVX2) && !defined(POCKET_OMNI_DOT)
    ort::operator_of<IntegerMatMul>(),
    ort::operator_of<BiasedIntegerMatMul>(),
#endif
};

}  // namespace

POCKET_OMNI_EXPORT void* RegisterCustomOps(void* session_options, const ort::ApiBase* base) {
  ort::api = base->get(ort::kVersion);
  if (ort::api == nullptr) return nullptr;  // too old: functions are used instead
  static void* domain = nullptr;
  if (domain == nullptr) {
    if (void* failed = ort::call(ort::kCreateCustomOpDomain, "pocket_omni", &domain)) return failed;
    for (ort::Operator& one : operators) {
      if (void* failed = ort::call(ort::kCustomOpDomainAdd, domain, &one)) return failed;
    }
  }
  return ort::call(ort::kAddCustomOpDomain, session_options, domain);
}
