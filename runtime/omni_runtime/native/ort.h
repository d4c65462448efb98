// The part of ONNX Runtime's C API that custom operators need, declared by position.
//
// ONNX Runtime's Python packages contain no headers. New members of OrtApi and OrtCustomOp are only
// appended, so the positions below are valid for every release since 1.17.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#ifdef _WIN32
#define POCKET_OMNI_EXPORT extern "C" __declspec(dllexport)
#else
#define POCKET_OMNI_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace ort {

constexpr uint32_t kVersion = 17;  // the first version with ParallelFor

enum Function {  // positions in OrtApi
  kCreateStatus = 0,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kGetIntegerAttribute = 86,
  kGetInput = 90,
  kGetOutput = 91,
  kReleaseTensorTypeAndShape = 99,
  kParallelFor = 274,
};

enum ElementType { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kFloat16 = 10 };

using Api = const void* const*;

struct ApiBase {
  Api (*get)(uint32_t version);
  const char* (*version)();
};

inline Api api = nullptr;

// Most functions return a status, which is null on success.
template <class Result = void*, class... Arguments>
Result call(Function function, Arguments... arguments) {
  return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(api[function]))(arguments...);
}

// Thrown out of a kernel, and returned to ONNX Runtime: a model is a stranger's data.
struct Failure {
  void* status;
};

constexpr int kInvalidArgument = 2;

// Throws unless `holds`. Kernels check all shapes and lengths before they touch memory.
inline void require(bool holds, const char* message) {
  if (!holds) throw Failure{call(kCreateStatus, kInvalidArgument, message)};
}

// Throws if a function failed.
inline void check(void* status) {
  if (status != nullptr) throw Failure{status};
}

constexpr int64_t kMostElements = int64_t{1} << 40;

// Number of elements. Throws for negative and for absurd dimensions.
inline int64_t elements(const std::vector<int64_t>& shape) {
  int64_t all = 1;
  for (const int64_t size : shape) {
    require(size >= 0, "a negative dimension");
    require(size == 0 || all <= kMostElements / size, "a tensor that is too large");
    all *= size;
  }
  return all;
}

// Inputs and outputs of one evaluation of a node.
class Context {
 public:
  explicit Context(void* context) : context_(context) {}

  template <class Element>
  const Element* input(size_t index) const {
    return static_cast<const Element*>(data(value(index)));
  }

  std::vector<int64_t> shape(size_t index) const {
    void* info = nullptr;
    size_t rank = 0;
    check(call(kGetTensorTypeAndShape, value(index), &info));
    check(call(kGetDimensionsCount, info, &rank));
    std::vector<int64_t> found(rank);
    check(call(kGetDimensions, info, found.data(), rank));
    call<void>(kReleaseTensorTypeAndShape, info);
    elements(found);
    return found;
  }

  // The input, which must have this many elements.
  template <class Element>
  const Element* input(size_t index, int64_t count, const char* message) const {
    require(elements(shape(index)) == count, message);
    return input<Element>(index);
  }

  template <class Element>
  Element* output(size_t index, const std::vector<int64_t>& shape) const {
    void* made = nullptr;
    elements(shape);
    check(call(kGetOutput, context_, index, shape.data(), shape.size(), &made));
    return static_cast<Element*>(data(made));
  }

  // Calls body(0) ... body(count - 1) on the threads of the session.
  template <class Body>
  void parallel(size_t count, const Body& body) const {
    struct Work {
      const Body& body;
      std::atomic<bool> failed{false};
    } work{body};
    auto step = [](void* user, size_t index) {
      auto* work = static_cast<Work*>(user);
      try {
        work->body(index);
      } catch (const std::bad_alloc&) {  // nothing may leave a thread of the pool
        work->failed = true;
      }
    };
    check(call(kParallelFor, context_, static_cast<void (*)(void*, size_t)>(step), count,
               size_t{0}, static_cast<void*>(&work)));
    if (work.failed) throw std::bad_alloc();
  }

 private:
  const void* value(size_t index) const {
    const void* found = nullptr;
    check(call(kGetInput, context_, index, &found));
    require(found != nullptr, "an input is missing");
    return found;
  }

  static void* data(const void* value) {
    void* found = nullptr;
    check(call(kGetTensorMutableData, value, &found));
    return found;
  }

  void* context_;
};

inline int64_t attribute(const void* info, const char* name) {
  int64_t found = 0;
  check(call(kGetIntegerAttribute, info, name, &found));
  return found;
}

// An attribute within low .. high.
inline int64_t attribute(const void* info, const char* name, int64_t low, int64_t high) {
  const int64_t found = attribute(info, name);
  require(low <= found && found <= high, name);
  return found;
}

// Runs `body` and returns null, or the status of what it threw.
template <class Body>
void* guarded(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return call(kCreateStatus, kInvalidArgument, "a kernel has no memory");
  }
}

// OrtCustomOp.
struct Operator {
  uint32_t version = kVersion;
  void* (*create)(const Operator*, Api, const void* info) = nullptr;
  const char* (*name)(const Operator*) = nullptr;
  const char* (*provider)(const Operator*) = [](const Operator*) -> const char* { return nullptr; };
  ElementType (*input_type)(const Operator*, size_t) = nullptr;
  size_t (*inputs)(const Operator*) = nullptr;
  ElementType (*output_type)(const Operator*, size_t) = nullptr;
  size_t (*outputs)(const Operator*) = nullptr;
  void (*compute)(void* kernel, void* context) = nullptr;
  void (*destroy)(void* kernel) = nullptr;
  int (*input_kind)(const Operator*, size_t) = [](const Operator*, size_t) { return 0; };
  int (*output_kind)(const Operator*, size_t) = [](const Operator*, size_t) { return 0; };
  int (*input_memory)(const Operator*, size_t) = [](const Operator*, size_t) { return 0; };
  int (*variadic[4])(const Operator*) = {};
  void* (*create_or_fail)(const Operator*, Api, const void*, void**) = nullptr;
  void* (*compute_or_fail)(void*, void*) = nullptr;
  void* (*infer_shape)(const Operator*, void*) = nullptr;
  int (*first_version)(const Operator*) = [](const Operator*) { return 1; };
  int (*last_version)(const Operator*) = [](const Operator*) { return INT32_MAX; };
};

// Registers a Kernel class as an operator. It has kName, kInputs and kOutputs (types), a
// constructor Kernel(info) that reads the node's attributes, and void run(const Context&).
template <class Kernel>
Operator operator_of() {
  Operator made;
  made.create_or_fail = [](const Operator*, Api, const void* info, void** kernel) -> void* {
    return guarded([=] { *kernel = new Kernel(info); });
  };
  made.name = [](const Operator*) { return Kernel::kName; };
  made.input_type = [](const Operator*, size_t index) { return Kernel::kInputs[index]; };
  made.inputs = [](const Operator*) { return sizeof(Kernel::kInputs) / sizeof(ElementType); };
  made.output_type = [](const Operator*, size_t index) { return Kernel::kOutputs[index]; };
  made.outputs = [](const Operator*) { return sizeof(Kernel::kOutputs) / sizeof(ElementType); };
  made.compute_or_fail = [](void* kernel, void* context) -> void* {
    return guarded([=] { static_cast<Kernel*>(kernel)->run(Context(context)); });
  };
  made.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return made;
}

}  // namespace ort
