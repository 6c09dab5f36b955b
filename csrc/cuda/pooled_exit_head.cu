// The pooled exit head of a packed batch in one launch: csrc/pooled_exit_head.h has the formulas.
//
// Launch: one block of 8 warps for a group of 1, 2, 4 or 8 samples. The block pools the rows of its samples one sample
// after the other, all threads on 16 bytes of columns each, then multiplies the group's vectors with each layer's
// weights, and ends with one warp per sample for the decision.
//
// Memory traffic of a block: the rows of its samples once from global memory (of `first`, one row each), and all
// weights once from the L2 cache, whatever the size of the group. The weights weigh more: 1.2 MB for a pooler of
// 768 x 768 in 16 bits against 0.2 MB for 128 tokens. A block cannot get them faster than its multiprocessor's share of
// the L2 bandwidth, so the time of a wave of blocks hardly depends on the group, and the group is the smallest with
// which all blocks run in one wave. Only the products grow with the group: 8 samples x 0.6 M multiply-adds are 37,000
// cycles of a multiprocessor's 128 units, about what the weights take to arrive, and there groups end.
#include "../pooled_exit_head.h"
#include "decision.cuh"
#include "device.cuh"
#include "device_limits.cuh"
#include "sample_rows.cuh"
#include "vector_matrix.cuh"

namespace fastbert::cuda {
namespace {

constexpr int MAX_SIZE = 8192;

struct PooledArguments {
  const void* hidden;
  const int32_t* cu_seqlens;
  PooledHeadWeights weights;
  Decision decision;
  DecisionOutputs outputs;
  int tokens;
  int batch;
  int widest;  // of all sizes
};

template <typename T>
constexpr int partial_size(int hidden_size) {
  return partial_floats<T>(hidden_size, 1);
}

// The larger of two; a NaN wins and stays.
__device__ __forceinline__ float larger(float a, float b) { return b > a || b != b ? b : a; }

// pooled [H], split, of one sample with rows; `partial` is for [slices, H]. Ends with a barrier.
template <typename T>
__device__ __forceinline__ void pool_rows(const T* rows, int length, int hidden_size, bool largest, float* partial,
                                          float* pooled) {
  const int units = hidden_size / UNIT_SIZE<T>;
  const int slices = units < THREADS ? THREADS / units : 1;
  for (int item = threadIdx.x; item < slices * units; item += THREADS) {
    const int unit = item % units;
    const int slice = item / units;
    float value[UNIT_SIZE<T>];
#pragma unroll
    for (int e = 0; e < UNIT_SIZE<T>; ++e) value[e] = largest ? -INFINITY : 0;
#pragma unroll 8
    for (int token = slice; token < length; token += slices) {
      float x[UNIT_SIZE<T>];
      unpack<T>(x, load_unit(rows + static_cast<int64_t>(token) * hidden_size, unit));
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) value[e] = largest ? larger(value[e], x[e]) : value[e] + x[e];
    }
#pragma unroll
    for (int e = 0; e < UNIT_SIZE<T>; ++e) {
      partial[slice * hidden_size + split_index<T>(unit * UNIT_SIZE<T> + e, hidden_size)] = value[e];
    }
  }
  __syncthreads();
  for (int column = threadIdx.x; column < hidden_size; column += THREADS) {
    float value = partial[column];
    for (int slice = 1; slice < slices; ++slice) {
      const float other = partial[slice * hidden_size + column];
      value = largest ? larger(value, other) : value + other;
    }
    pooled[column] = largest ? value : value / static_cast<float>(length);
  }
  __syncthreads();
}

// pooled [count, H], each split, of the samples of a group.
template <typename T>
__device__ __forceinline__ void pool_group(const PooledArguments& arguments, int first_sample, int count,
                                           float* partial, float* pooled) {
  const int hidden_size = static_cast<int>(arguments.weights.size[0]);
  const T* hidden = static_cast<const T*>(arguments.hidden);
  const int32_t* cu_seqlens = arguments.cu_seqlens + first_sample;
  if (arguments.weights.pooling == Pooling::first) {
    const int units = hidden_size / UNIT_SIZE<T>;
    for (int item = threadIdx.x; item < count * units; item += THREADS) {
      const int sample = item / units;
      const int unit = item % units;
      const auto [row, length] = rows_of(cu_seqlens, sample, arguments.tokens);
      float x[UNIT_SIZE<T>];
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) x[e] = NAN;
      if (length > 0) unpack<T>(x, load_unit(hidden + row * hidden_size, unit));
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) {
        pooled[sample * hidden_size + split_index<T>(unit * UNIT_SIZE<T> + e, hidden_size)] = x[e];
      }
    }
    return;
  }
  for (int sample = 0; sample < count; ++sample) {
    const auto [row, length] = rows_of(cu_seqlens, sample, arguments.tokens);
    float* target = pooled + sample * hidden_size;
    if (length > 0) {
      const bool largest = arguments.weights.pooling == Pooling::max;
      pool_rows<T>(hidden + row * hidden_size, length, hidden_size, largest, partial, target);
    } else {
      for (int column = threadIdx.x; column < hidden_size; column += THREADS) target[column] = NAN;
    }
  }
}

template <typename T, int SAMPLES>
__global__ void __launch_bounds__(THREADS, 2) pooled_exit_head_kernel(const PooledArguments arguments) {
  FASTBERT_DYNAMIC_SHARED(shared);
  const PooledHeadWeights& weights = arguments.weights;
  const int first_sample = static_cast<int>(blockIdx.x) * SAMPLES;
  const int count = min(arguments.batch - first_sample, SAMPLES);
  float* in = reinterpret_cast<float*>(shared);  // [SAMPLES, widest]
  float* out = in + SAMPLES * arguments.widest;  // [SAMPLES, widest]
  float* partial = out + SAMPLES * arguments.widest;
  pool_group<T>(arguments, first_sample, count, partial, in);
  for (int layer = 0; layer < weights.num_layers; ++layer) {
    __syncthreads();
    const int size = static_cast<int>(weights.size[layer]);
    const int rows = static_cast<int>(weights.size[layer + 1]);
    const bool last = layer == weights.num_layers - 1;
    const float* bias = weights.bias[layer];
    multiply_rows<T, SAMPLES, SAMPLES == 8 ? 2 : 4>(static_cast<const T*>(weights.weight[layer]), rows, size, in, count,
                                                    [&](int sample, int row, float sum) {
                                                      const float value = sum + __ldg(bias + row);
                                                      out[sample * rows + (last ? row : split_index<T>(row, rows))] =
                                                          last ? value : activate(weights.activation, value);
                                                    });
    float* const swapped = in;
    in = out;
    out = swapped;
  }
  __syncthreads();
  const int num_labels = static_cast<int>(weights.size[weights.num_layers]);
  float* logits = arguments.outputs.logits + static_cast<int64_t>(first_sample) * num_labels;
  for (int i = threadIdx.x; i < count * num_labels; i += THREADS) logits[i] = in[i];
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  if (warp < count) {
    decide(arguments.decision, arguments.outputs, in + warp * num_labels, num_labels, first_sample + warp, lane);
  }
}

template <typename T, int SAMPLES>
cudaError_t launch_group(const PooledArguments& arguments, size_t shared_bytes, int device, int shared_limit,
                         void* stream) {
  const auto kernel = pooled_exit_head_kernel<T, SAMPLES>;
  const cudaError_t status = allow_shared_memory(kernel, device, shared_limit);
  if (status != cudaSuccess) return status;
  const auto blocks = static_cast<unsigned>((static_cast<int64_t>(arguments.batch) + SAMPLES - 1) / SAMPLES);
  FASTBERT_LAUNCH(kernel, blocks, THREADS, shared_bytes, stream, arguments);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch(const PooledArguments& arguments, int device, void* stream) {
  DeviceLimits limits = {};
  const cudaError_t status = device_limits(device, limits);
  if (status != cudaSuccess) return status;
  const int partial = partial_size<T>(static_cast<int>(arguments.weights.size[0]));
  const auto shared_bytes = [&](int samples) {
    return (static_cast<size_t>(2) * samples * arguments.widest + partial) * sizeof(float);
  };
  int samples = 1;
  while (samples < 8 && (arguments.batch + static_cast<int64_t>(samples) - 1) / samples > limits.multiprocessors)
    samples *= 2;
  while (samples > 1 && shared_bytes(samples) > static_cast<size_t>(limits.block)) samples /= 2;
  switch (samples) {
    case 1:
      return launch_group<T, 1>(arguments, shared_bytes(1), device, limits.block, stream);
    case 2:
      return launch_group<T, 2>(arguments, shared_bytes(2), device, limits.block, stream);
    case 4:
      return launch_group<T, 4>(arguments, shared_bytes(4), device, limits.block, stream);
    default:
      return launch_group<T, 8>(arguments, shared_bytes(8), device, limits.block, stream);
  }
}

}  // namespace

const char* pooled_exit_head_unsupported(const PooledHeadWeights& weights, DType dtype) {
  if (dtype != DType::float32 && dtype != DType::bfloat16 && dtype != DType::float16) {
    return "the CUDA pooled exit head takes float32, bfloat16 or float16";
  }
  if (weights.num_layers < 1 || weights.num_layers > kMaxPooledLayers) {
    return "the CUDA pooled exit head takes 1 to 3 layers";
  }
  for (int i = 0; i < weights.num_layers; ++i) {
    if (weights.size[i] <= 0 || weights.size[i] % 8 != 0 || weights.size[i] > MAX_SIZE) {
      return "the CUDA pooled exit head needs sizes that are multiples of 8, up to 8192";
    }
  }
  const int64_t num_labels = weights.size[weights.num_layers];
  if (num_labels < 1 || num_labels > MAX_SIZE) return "the CUDA pooled exit head takes 1 to 8192 labels";
  return nullptr;
}

int pooled_exit_head(const void* hidden, DType dtype, int64_t tokens, const int32_t* cu_seqlens, int64_t batch,
                     const PooledHeadWeights& weights, const Decision& decision, const DecisionOutputs& outputs,
                     int device, void* stream) {
  if (pooled_exit_head_unsupported(weights, dtype) != nullptr || batch > INT32_MAX || tokens > INT32_MAX)
    return cudaErrorInvalidValue;
  if (batch <= 0) return cudaSuccess;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  PooledArguments arguments = {};
  arguments.hidden = hidden;
  arguments.cu_seqlens = cu_seqlens;
  arguments.weights = weights;
  arguments.decision = decision;
  arguments.outputs = outputs;
  arguments.tokens = static_cast<int>(tokens);
  arguments.batch = static_cast<int>(batch);
  for (int i = 0; i <= weights.num_layers; ++i) {
    const int size = static_cast<int>(weights.size[i] + 3) / 4 * 4;  // vectors begin on 16 bytes
    if (size > arguments.widest) arguments.widest = size;
  }
  switch (dtype) {
    case DType::bfloat16:
      return launch<__nv_bfloat16>(arguments, device, stream);
    case DType::float16:
      return launch<__half>(arguments, device, stream);
    default:
      return launch<float>(arguments, device, stream);
  }
}

}  // namespace fastbert::cuda
