// The few functions of the CUDA runtime that a launcher calls, as nvcc compiled it: they tell a callback which kernel it
// would launch, and with what. LAUNCHER is the launcher, declared in HEADER.
#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <utility>

#include HEADER

namespace {

using Callback = void (*)(const char* kernel, unsigned grid, unsigned block, size_t shared_bytes, void** arguments);

struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
} configuration;

struct Device {
  int multiprocessors;
  int shared_bytes_per_block;
  int shared_bytes_per_multiprocessor;
} device;

Callback callback = nullptr;

std::map<const void*, std::string>& names() {
  static std::map<const void*, std::string> all;
  return all;
}

}  // namespace

extern "C" {

extern const void* const launcher = reinterpret_cast<const void*>(&fastbert::cuda::LAUNCHER);

void configure(Callback on_launch, int multiprocessors, int shared_bytes_per_block,
               int shared_bytes_per_multiprocessor) {
  callback = on_launch;
  device = {multiprocessors, shared_bytes_per_block, shared_bytes_per_multiprocessor};
}

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  names()[function] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st*) {
  configuration = {grid, block, shared_bytes};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void*) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared_bytes = configuration.shared_bytes;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                               cudaStream_t) {
  callback(names().at(kernel).c_str(), grid.x, block.x, shared_bytes, arguments);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = device.shared_bytes_per_block;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = device.shared_bytes_per_multiprocessor;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = device.multiprocessors;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}

}  // extern "C"
