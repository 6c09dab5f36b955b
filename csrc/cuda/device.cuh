// The one header a kernel source includes. Under nvcc it is CUDA; with FASTBERT_HOST_SHIM the same sources are compiled
// by a host compiler and every CUDA thread runs as a fiber, which is how the tests prove the logic on a machine without
// a GPU.
//
// What that asks of a kernel: launch and dynamic shared memory through the macros below, PTX only in ptx.cuh, warp
// collectives with a full mask, no thread leaving before a barrier that others wait at, no device state at file scope.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef FASTBERT_HOST_SHIM

#include "host_shim.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FASTBERT_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define FASTBERT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

#endif

namespace fastbert::cuda {

constexpr int WARP_SIZE = 32;
constexpr unsigned FULL_WARP = 0xffffffffu;

// Make `device` current for a launch. The runtime is linked statically, so its current device is not the caller's.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    status_ = cudaGetDevice(&previous_);
    if (status_ == cudaSuccess && previous_ != device) {
      status_ = cudaSetDevice(device);
      changed_ = status_ == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t status() const { return status_; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t status_ = cudaSuccess;
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = WARP_SIZE / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(FULL_WARP, value, offset);
  return value;
}

// fmaxf passes over a NaN: callers rely on the NaN showing up again in the sum that follows every maximum.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = WARP_SIZE / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, offset));
  return value;
}

}  // namespace fastbert::cuda
