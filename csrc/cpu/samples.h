// Sharing the samples of a packed batch out among threads.
#pragma once
#include <cstdint>

#include "cpu/memory.h"
#include "cpu/threads.h"

namespace fastbert::cpu {

inline int64_t longest_sample(const int32_t* cu_seqlens, int64_t batch) {
  int64_t longest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t n = cu_seqlens[b + 1] - cu_seqlens[b];
    longest = n > longest ? n : longest;
  }
  return longest;
}

// run(b, first row, n, scratch) for every sample, with `scratch_size` floats for itself.
template <class Run>
void for_each_sample(const int32_t* cu_seqlens, int64_t batch, int64_t scratch_size, const Run& run) {
  parallel_for(batch, [&](int64_t b) {
    const AlignedArray<float> scratch = aligned_array<float>(scratch_size);
    const int64_t begin = cu_seqlens[b];
    run(b, begin, cu_seqlens[b + 1] - begin, scratch.get());
  });
}

}  // namespace fastbert::cpu
