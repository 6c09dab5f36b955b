// What launchers ask the CUDA runtime about a device and a kernel: once, and not at every launch. Of internal linkage:
// what inline functions remember, the loader shares among all modules of a process.
#pragma once
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "device.cuh"

namespace fastbert::cuda {

struct DeviceLimits {
  int block;            // bytes of shared memory that a block may have
  int multiprocessor;   // bytes of shared memory
  int multiprocessors;  // how many
};

static cudaError_t device_limits(int device, DeviceLimits& limits) {
  static std::mutex mutex;
  static std::map<int, DeviceLimits> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) {
    limits = found->second;
    return cudaSuccess;
  }
  cudaError_t status = cudaDeviceGetAttribute(&limits.block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&limits.multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status == cudaSuccess) known.emplace(device, limits);
  return status;
}

// Let a kernel without static shared memory have all that the device, which is current, gives a block. Not what one
// launch needs: the limit is the kernel's, so a later launch would take from a graph that is recorded but not yet made.
template <typename Kernel>
static cudaError_t allow_shared_memory(Kernel kernel, int device, int bytes_per_block) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  const std::pair<const void*, int> asked(reinterpret_cast<const void*>(kernel), device);
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count(asked) != 0) return cudaSuccess;
  const cudaError_t status =
      cudaFuncSetAttribute(asked.first, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes_per_block);
  if (status == cudaSuccess) allowed.insert(asked);
  return status;
}

}  // namespace fastbert::cuda
