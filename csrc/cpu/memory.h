// Scratch memory whose vectors do not straddle cache lines. A thread keeps what is given back for its next request: pages
// fresh from the system cost a fault each.
#pragma once
#include <cstddef>
#include <memory>

namespace fastbert::cpu {

// Uninitialised, aligned to a cache line. Throws std::bad_alloc.
void* take_memory(size_t bytes);
void give_back_memory(void* memory);

struct GiveBack {
  void operator()(void* memory) const { give_back_memory(memory); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], GiveBack>;

// Uninitialised.
template <class T>
AlignedArray<T> aligned_array(size_t count) {
  return AlignedArray<T>(static_cast<T*>(take_memory(count * sizeof(T))));
}

}  // namespace fastbert::cpu
