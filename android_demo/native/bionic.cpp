// Functions that zig's C++ runtime calls and that Android's libc lacks or names otherwise. The
// library is compiled for musl, whose types have the same layout where that runtime uses them.
#include <cstdlib>
#include <cstring>

extern "C" {

int* __errno();

int* __errno_location() { return __errno(); }

void* aligned_alloc(size_t alignment, size_t size) {
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, size) == 0 ? memory : nullptr;
}

int bcmp(const void* a, const void* b, size_t size) { return std::memcmp(a, b, size); }
}
