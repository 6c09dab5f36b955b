// Where the rows of a sample are. The host does not see the bounds, which lie on the device, and must not wait for them,
// so a kernel looks at each before it makes an address of it.
#pragma once
#include "device.cuh"

namespace fastbert::cuda {

// 0 <= begin <= end <= T.
__device__ __forceinline__ bool are_bounds(int begin, int end, int tokens) {
  return 0 <= begin && begin <= end && end <= tokens;
}

struct SampleRows {
  int64_t first;
  int length;
};

// Bounds that leave the T rows of the batch are those of a sample without tokens, whose answer is NaN.
__device__ __forceinline__ SampleRows rows_of(const int32_t* cu_seqlens, int64_t sample, int tokens) {
  const int begin = cu_seqlens[sample];
  const int end = cu_seqlens[sample + 1];
  return {begin, are_bounds(begin, end, tokens) ? end - begin : 0};
}

}  // namespace fastbert::cuda
