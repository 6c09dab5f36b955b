// The driver may be too old for the toolkit that compiled the kernels, or the module may hold no code for the device:
// both show in the first launch only, as a number. Here they are looked for beforehand and put in words.
#include "../cuda_availability.h"
#include "device.cuh"

namespace fastbert::cuda {
namespace {

__global__ void nothing() {}

std::string in_words(int version) {  // as CUDA counts: 12040 is 12.4
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

std::string kernels_unavailable(int device) {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "there is no NVIDIA driver";
  // Later drivers run what earlier toolkits compiled, and all drivers of a major version what its toolkits did.
  if (driver / 1000 < CUDART_VERSION / 1000) {
    return "the driver runs CUDA up to " + in_words(driver) + ", and the kernels were compiled with CUDA " +
           in_words(CUDART_VERSION) + ": update the driver, or reinstall with an nvcc of CUDA " +
           std::to_string(driver / 1000);
  }
  const DeviceGuard guard(device);
  cudaError_t status = guard.status();
  cudaFuncAttributes attributes = {};
  if (status == cudaSuccess) status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(nothing));
  if (status == cudaSuccess) return "";
  cudaGetLastError();  // what is told here is no error of the next launch
  return "the kernels do not load on this device (" + error_in_words(status) +
         "): reinstall on this machine, so that nvcc compiles for its GPU";
}

std::string error_in_words(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

}  // namespace fastbert::cuda
