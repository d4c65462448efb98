// Scratch memory of one evaluation, reused by the thread that allocated it.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

class Scratch {
 public:
  // Returns `bytes` of memory. Invalidates what was returned before.
  void reserve(size_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    memory_.reset(new (std::align_val_t{kLine}) char[bytes]);
    size_ = bytes;
  }

  template <class Element>
  Element* take(size_t count) {
    Element* taken = reinterpret_cast<Element*>(memory_.get() + used_);
    used_ += padded<Element>(count);
    return taken;
  }

  template <class Element>
  static size_t padded(size_t count) {
    return (count * sizeof(Element) + kLine - 1) / kLine * kLine;
  }

 private:
  static constexpr size_t kLine = 64;  // bytes of a cache line, the alignment

  struct Free {
    void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t{kLine}); }
  };

  std::unique_ptr<char[], Free> memory_;
  size_t size_ = 0, used_ = 0;
};
