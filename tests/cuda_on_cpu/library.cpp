// The CUDA kernels on the CPU as a shared library for ctypes, with the few functions of the CUDA runtime their
// launchers call.
#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "compact.h"
#include "depth_graph.h"
#include "attentive_head.h"
#include "pooled_exit_head.h"
#include "host_shim.h"

namespace {
int current_device = 0;

template <class Enum>
int number_of(const char* name) {
  for (const auto& named : names_of(Enum{}))
    if (std::strcmp(named.name, name) == 0) return static_cast<int>(named.value);
  return -1;
}
}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(cuda_on_cpu::machine.last_error, cudaSuccess); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cuda_on_cpu::machine.shared_bytes_per_block;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = cuda_on_cpu::machine.shared_bytes_per_multiprocessor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = cuda_on_cpu::machine.multiprocessors;
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  if (value > cuda_on_cpu::machine.shared_bytes_per_block) return cudaErrorInvalidValue;
  cuda_on_cpu::machine.granted_shared_bytes = value;
  return cudaSuccess;
}

// The value of `name` in an enumeration, or -1.
int number_of(const char* enumeration, const char* name) {
  using namespace fastbert;
  if (std::strcmp(enumeration, "Activation") == 0) return number_of<Activation>(name);
  if (std::strcmp(enumeration, "Criterion") == 0) return number_of<Criterion>(name);
  if (std::strcmp(enumeration, "DType") == 0) return number_of<DType>(name);
  if (std::strcmp(enumeration, "Pooling") == 0) return number_of<Pooling>(name);
  return -1;
}

void configure(unsigned order_seed, int multiprocessors, int shared_bytes_per_block,
               int shared_bytes_per_multiprocessor) {
  cuda_on_cpu::machine.order_seed = order_seed;
  cuda_on_cpu::machine.multiprocessors = multiprocessors;
  cuda_on_cpu::machine.shared_bytes_per_block = shared_bytes_per_block;
  cuda_on_cpu::machine.shared_bytes_per_multiprocessor = shared_bytes_per_multiprocessor;
  cuda_on_cpu::machine.granted_shared_bytes = 0;
}

int64_t launches() { return cuda_on_cpu::machine.launches; }

int64_t shared_bytes() { return cuda_on_cpu::machine.shared_bytes; }

int64_t granted_shared_bytes() { return cuda_on_cpu::machine.granted_shared_bytes; }

int64_t bank_conflicts() { return cuda_on_cpu::machine.bank_conflicts; }

int device() { return current_device; }

int64_t matrix_products() { return cuda_on_cpu::machine.matrix_products; }

const char* attentive_head_unsupported(const fastbert::AttentiveHeadShape* shape,
                                       const fastbert::AttentiveHeadWeights* weights, int dtype) {
  return fastbert::cuda::attentive_head_unsupported(*shape, *weights, static_cast<fastbert::DType>(dtype));
}

int attentive_head(const void* hidden, int dtype, const int32_t* cu_seqlens,
                   const fastbert::AttentiveHeadWeights* weights, const fastbert::AttentiveHeadShape* shape,
                   const fastbert::Decision* decision, const fastbert::DecisionOutputs* outputs, int device) {
  return fastbert::cuda::attentive_head(hidden, static_cast<fastbert::DType>(dtype), cu_seqlens, *weights, *shape,
                                        *decision, *outputs, device, nullptr);
}

const char* pooled_exit_head_unsupported(const fastbert::PooledHeadWeights* weights, int dtype) {
  return fastbert::cuda::pooled_exit_head_unsupported(*weights, static_cast<fastbert::DType>(dtype));
}

int pooled_exit_head(const void* hidden, int dtype, int64_t tokens, const int32_t* cu_seqlens, int64_t batch,
                     const fastbert::PooledHeadWeights* weights, const fastbert::Decision* decision,
                     const fastbert::DecisionOutputs* outputs, int device) {
  return fastbert::cuda::pooled_exit_head(hidden, static_cast<fastbert::DType>(dtype), tokens, cu_seqlens, batch,
                                          *weights, *decision, *outputs, device, nullptr);
}

int compact(const fastbert::PackedBatch* batch, const fastbert::CompactedBatch* out, const fastbert::Results* results,
            int device) {
  return fastbert::cuda::compact(*batch, *out, *results, device, nullptr);
}

const char* depth_graph_unsupported() { return fastbert::cuda::depth_graph_unsupported(); }

int make_depth_graph(const fastbert::DepthStage* stages, int64_t count, int device, void** executable) {
  return fastbert::cuda::make_depth_graph(stages, count, device, executable);
}

int launch_depth_graph(void* executable, int device) {
  return fastbert::cuda::launch_depth_graph(executable, device, nullptr);
}

int destroy_depth_graph(void* executable) { return fastbert::cuda::destroy_depth_graph(executable); }
}
