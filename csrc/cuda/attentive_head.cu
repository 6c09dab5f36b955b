// The attentive head of a packed batch in one launch: csrc/attentive_head.h has the formulas.
//
// Launch: one block of 8 warps per sample. All that a block reads comes as one stream of chunks through a ring of
// stages in shared memory, filled by cp.async several chunks ahead, so that memory is busy from the first to the last:
//
//   tile 0 of the sample   hidden and projection weights, 128 bytes of each row a chunk -> Z of the tile, in registers
//   query                  Z_0 -> u_i;  then the attention of tile 0
//   tiles 1, 2, ..         like tile 0, each followed by its attention: scores u_i . Z_j -> running maximum and sum ->
//                          contexts c_i += p_ij Z_j (online softmax)
//   value                  contexts -> t;  then logits -> decision
//
// A tile has 128 tokens (64 when C = 256). A warp holds 32 of them by C / 2 columns (C / 4 when C = 256) of Z in the
// layout in which the matrix units accumulate: 64 registers a thread, so that two blocks fit a multiprocessor. The
// float32 kernel differs in the product alone, fused multiply-adds in the same layout.
//
// Memory traffic of a block: its rows of `hidden` once from global memory; from the L2 cache the projection weights
// once a tile, and query, value and output weights once. Z never leaves the registers. For 128 tokens with H = 768,
// C = 128 and 2 heads in 16 bits that is 197 KB of hidden, 197 KB of projection weights, and 131 KB of query and value
// (262 KB when these are float32).
//
// With narrow_activation = identity the tokens need no projection: attentive_head_linear.cuh, which says when that is less.
#include <cmath>
#include <type_traits>

#include "../attentive_head.h"
#include "decision.cuh"
#include "device.cuh"
#include "attentive_head_arguments.cuh"
#include "attentive_head_attention.cuh"
#include "attentive_head_linear.cuh"
#include "attentive_head_shared.cuh"
#include "attentive_head_stream.cuh"
#include "ptx.cuh"

namespace fastbert::cuda {
namespace {

// The block's sum over the slices, for one column.
template <int C>
__device__ __forceinline__ float sum_slices(const float* partial, int column) {
  float sum = 0;
#pragma unroll
  for (int slice = 0; slice < Layout<C>::slices; ++slice) sum += partial[slice * C + column];
  return sum;
}

// u_i = Z_0 query_i + query_bias_i for all heads.
template <typename T, int C>
__device__ __forceinline__ void compute_queries(const Scratch<C>& scratch, const Arguments& arguments,
                                                Stream<T, C>& stream) {
  for (int head = 0; head < arguments.num_heads; ++head) {
    stream.multiply_next(scratch.first, C, scratch.partial);
    __syncthreads();
    for (int column = threadIdx.x; column < C; column += THREADS) {
      const int index = head * C + column;
      scratch.query[index] = sum_slices<C>(scratch.partial, column) + __ldg(arguments.weights.query_bias + index);
    }
  }
  __syncthreads();
}

// Contexts -> t.
template <typename T, int C>
__device__ __forceinline__ void compute_features(const Scratch<C>& scratch, const Arguments& arguments,
                                                 Stream<T, C>& stream) {
  const int context_size = arguments.num_heads * C;
  __syncthreads();
  for (int i = threadIdx.x; i < context_size; i += THREADS) {
    float sum = 0;
#pragma unroll
    for (int down = 0; down < Layout<C>::warps_down; ++down) sum += scratch.context[down * context_size + i];
    scratch.query[i] = sum / scratch.total[i / C];
  }
  __syncthreads();
  stream.multiply_next(scratch.query, context_size, scratch.partial);
  __syncthreads();
  for (int column = threadIdx.x; column < C; column += THREADS) {
    const float sum = sum_slices<C>(scratch.partial, column) + __ldg(arguments.weights.value_bias + column);
    scratch.first[column] = activate(arguments.weights.mlp_activation, sum);
  }
  __syncthreads();
}

// Z of a tile: bias and activation.
template <typename T, int C>
__device__ __forceinline__ void activate_tile(Accumulators<C>& zed, const float* bias, bool identity) {
#pragma unroll
  for (int n = 0; n < Layout<C>::column_tiles; ++n) {
    const float2 pair = *reinterpret_cast<const float2*>(bias + 8 * n);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        zed[i][n][e] += e % 2 ? pair.y : pair.x;
        if (identity) continue;
        zed[i][n][e] = std::is_same_v<T, __nv_bfloat16> ? tanh_approximated(zed[i][n][e]) : tanhf(zed[i][n][e]);
      }
    }
  }
}

template <typename T, int C>
__global__ void __launch_bounds__(THREADS, 2) attentive_head_kernel(const Arguments arguments) {
  using L = Layout<C>;
  FASTBERT_DYNAMIC_SHARED(shared);
  const int sample = blockIdx.x;
  const auto [first_row, length] = rows_of(arguments.cu_seqlens, sample, arguments.tokens);
  if (length == 0) {
    decide_without_tokens(arguments.decision, arguments.outputs, arguments.num_labels, sample);
    return;
  }

  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  const int warp_across = warp % L::warps_across;
  const int warp_down = warp / L::warps_across;
  const int num_heads = arguments.num_heads;
  const Scratch<C> scratch(reinterpret_cast<float*>(shared + arguments.stages * L::stage_bytes), num_heads);
  for (int column = threadIdx.x; column < C; column += THREADS) {
    scratch.bias[column] = arguments.weights.projection_bias[column];
  }
  if (static_cast<int>(threadIdx.x) < num_heads) {
    scratch.maximum[threadIdx.x] = -INFINITY;
    scratch.total[threadIdx.x] = 0;
  }

  const T* hidden = static_cast<const T*>(arguments.hidden) + first_row * arguments.hidden_size;
  Stream<T, C> stream(arguments, shared, hidden, length);

  for (int token = 0; token < length; token += L::tokens) {
    const int count = min(length - token, L::tokens);
    const bool active = warp_down * 32 < count;
    float zed[2][L::column_tiles][4] = {};
    for (int chunk = 0; chunk < arguments.chunks; ++chunk) {
      const unsigned char* hidden_rows = stream.next() + warp_down * 32 * CHUNK_BYTES;
      const unsigned char* weight_rows =
          hidden_rows + (L::tokens - warp_down * 32 + warp_across * L::warp_columns) * CHUNK_BYTES;
      if (!active) continue;
      if constexpr (sizeof(T) == 2) {
        multiply_chunk<T, C>(zed, hidden_rows, weight_rows, lane);
      } else {
        multiply_chunk_float<C>(zed, hidden_rows, weight_rows, lane);
      }
    }

    if (active) {
      const int column = warp_across * L::warp_columns + lane % 4 * 2;  // and every eighth from there
      activate_tile<T, C>(zed, scratch.bias + column, arguments.weights.narrow_activation == Activation::identity);
      if (token == 0 && warp_down == 0 && lane < 4) {
#pragma unroll
        for (int n = 0; n < L::column_tiles; ++n) {
          *reinterpret_cast<float2*>(scratch.first + column + 8 * n) = make_float2(zed[0][n][0], zed[0][n][1]);
        }
      }
    }
    if (token == 0) compute_queries<T, C>(scratch, arguments, stream);
    if (active) compute_scores<C>(scratch, zed, num_heads, warp_down * 32, warp_across, lane);
    __syncthreads();
    if (warp < num_heads) update_softmax<C>(scratch, num_heads, warp, count, lane);
    __syncthreads();
    update_contexts<C>(scratch, zed, num_heads, token == 0, warp_down, warp_across, lane);
  }
  compute_features<T, C>(scratch, arguments, stream);
  classify(arguments, scratch.first, C, reinterpret_cast<float*>(shared), sample);  // the stages have been read
}

template <typename T, int C>
cudaError_t launch(Arguments arguments, int64_t batch, int device, void* stream) {
  DeviceLimits limits = {};
  cudaError_t status = device_limits(device, limits);
  if (status != cudaSuccess) return status;
  const int scratch_bytes = static_cast<int>(Scratch<C>::floats(arguments.num_heads) * sizeof(float));
  arguments.stages = choose_stages(limits, batch, scratch_bytes, Layout<C>::stage_bytes);
  if (arguments.stages == 0) return cudaErrorInvalidConfiguration;
  static_assert(MAX_LABELS * sizeof(float) <= 2 * Layout<C>::stage_bytes, "logits take the place of the stages");
  const size_t shared_bytes = static_cast<size_t>(arguments.stages) * Layout<C>::stage_bytes + scratch_bytes;
  arguments.chunks = (arguments.hidden_size * static_cast<int>(sizeof(T)) + CHUNK_BYTES - 1) / CHUNK_BYTES;
  const auto kernel = attentive_head_kernel<T, C>;
  status = allow_shared_memory(kernel, device, limits.block);
  if (status != cudaSuccess) return status;
  FASTBERT_LAUNCH(kernel, static_cast<unsigned>(batch), THREADS, shared_bytes, stream, arguments);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch(const Arguments& arguments, const AttentiveHeadShape& shape, int device, void* stream) {
  if (arguments.weights.narrow_activation == Activation::identity) {
    bool launched = false;
    const cudaError_t status = launch_linear<T>(arguments, shape, device, stream, launched);
    if (status != cudaSuccess || launched) return status;
  }
  switch (shape.narrow_size) {
    case 64:
      return launch<T, 64>(arguments, shape.batch, device, stream);
    case 128:
      return launch<T, 128>(arguments, shape.batch, device, stream);
    default:
      return launch<T, 256>(arguments, shape.batch, device, stream);
  }
}

}  // namespace

const char* attentive_head_unsupported(const AttentiveHeadShape& shape, const AttentiveHeadWeights& weights,
                                       DType dtype) {
  if (dtype != DType::float32 && dtype != DType::bfloat16 && dtype != DType::float16) {
    return "the CUDA exit head takes float32, bfloat16 or float16";
  }
  if (weights.fold_dtype != DType::float32 && weights.fold_dtype != dtype) {
    return "the CUDA exit head takes query and value in float32 or the dtype of hidden";
  }
  if (shape.hidden_size <= 0 || shape.hidden_size % 8 != 0 || shape.hidden_size > 65536) {
    return "the CUDA exit head needs a hidden size that is a multiple of 8, up to 65536";
  }
  if (shape.narrow_size != 64 && shape.narrow_size != 128 && shape.narrow_size != 256) {
    return "the CUDA exit head needs a narrow size of 64, 128 or 256";
  }
  if (shape.num_heads < 1 || shape.num_heads > MAX_HEADS) return "the CUDA exit head takes 1 to 8 heads";
  if (shape.num_labels < 1 || shape.num_labels > MAX_LABELS) return "the CUDA exit head takes 1 to 8192 labels";
  if (shape.batch > INT32_MAX || shape.tokens > INT32_MAX) {
    return "the CUDA exit head takes up to 2^31 - 1 samples and tokens";
  }
  for (const Activation activation : {weights.narrow_activation, weights.mlp_activation}) {
    if (activation != Activation::identity && activation != Activation::tanh) {
      return "the CUDA exit head takes the activations identity and tanh";
    }
  }
  return nullptr;
}

int attentive_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const AttentiveHeadWeights& weights,
                   const AttentiveHeadShape& shape, const Decision& decision, const DecisionOutputs& outputs,
                   int device, void* stream) {
  if (attentive_head_unsupported(shape, weights, dtype) != nullptr) return cudaErrorInvalidValue;
  if (shape.batch <= 0) return cudaSuccess;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  Arguments arguments = {};
  arguments.hidden = hidden;
  arguments.cu_seqlens = cu_seqlens;
  arguments.weights = weights;
  arguments.decision = decision;
  arguments.outputs = outputs;
  arguments.tokens = static_cast<int>(shape.tokens);
  arguments.hidden_size = static_cast<int>(shape.hidden_size);
  arguments.narrow_size = static_cast<int>(shape.narrow_size);
  arguments.num_heads = static_cast<int>(shape.num_heads);
  arguments.num_labels = static_cast<int>(shape.num_labels);
  switch (dtype) {
    case DType::bfloat16:
      return launch<__nv_bfloat16>(arguments, shape, device, stream);
    case DType::float16:
      return launch<__half>(arguments, shape, device, stream);
    default:
      return launch<float>(arguments, shape, device, stream);
  }
}

}  // namespace fastbert::cuda
