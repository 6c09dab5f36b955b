// Scratch memory whose vectors do not straddle cache lines.
#pragma once
#include <cstddef>
#include <memory>
#include <new>

namespace fastbert::cpu {

constexpr std::align_val_t kCacheLine{64};

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, kCacheLine); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeAligned>;

// Uninitialised.
template <class T>
AlignedArray<T> aligned_array(size_t count) {
  return AlignedArray<T>(static_cast<T*>(::operator new(count * sizeof(T) + 64, kCacheLine)));
}

}  // namespace fastbert::cpu
