// The exit head of a packed batch in one launch: csrc/exit_head.h has the formulas.
//
// Launch: one block of 8 warps per sample. All that a block reads comes as one stream of chunks through a ring of
// stages in shared memory, filled by cp.async several chunks ahead, so that memory is busy from the first to the last:
//
//   tile 0 of the sample   hidden and projection weights, 128 bytes of each row a chunk -> Z of the tile, in registers
//   query                  Z_0 -> u_i;  then the attention of tile 0
//   tiles 1, 2, ..         like tile 0, each followed by its attention: scores u_i . Z_j -> running maximum and sum ->
//                          contexts c_i += p_ij Z_j (online softmax)
//   value                  contexts -> t;  then logits -> uncertainty -> keep
//
// A tile has 128 tokens (64 when C = 256). A warp holds 32 of them by C / 2 columns (C / 4 when C = 256) of Z in the
// layout in which the matrix units accumulate: 64 registers a thread, so that two blocks fit a multiprocessor. The
// float32 kernel differs in the product alone, fused multiply-adds in the same layout.
//
// Memory traffic of a block: its rows of `hidden` once from global memory; from the L2 cache the projection weights
// once a tile, and query, value and output weights once. Z never leaves the registers.
#include <cmath>

#include "../exit_head.h"
#include "device.cuh"
#include "exit_head_shared.cuh"
#include "ptx.cuh"

namespace fastbert::cuda {
namespace {

constexpr int MAX_HEADS = WARPS;   // one warp runs the softmax of one head
constexpr int MAX_LABELS = 8192;   // the logits of a sample take the place of the stages
constexpr int LABELS_AT_ONCE = 4;  // whose weights a warp has on their way together

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
    float4 sum = make_float4(0, 0, 0, 0);
    for (int row = 0; row < C; row += Layout<C>::fold_rows) multiply_fold<C>(sum, scratch.first + row, stream.next());
    reinterpret_cast<float4*>(scratch.partial)[threadIdx.x] = sum;
    __syncthreads();
    for (int column = threadIdx.x; column < C; column += THREADS) {
      const int index = head * C + column;
      scratch.query[index] = sum_slices<C>(scratch.partial, column) + __ldg(arguments.weights.query_bias + index);
    }
  }
  __syncthreads();
}

// score[warp_across, head, token] = u_i . Z_j over the columns of a warp.
template <int C>
__device__ __forceinline__ void compute_scores(const Scratch<C>& scratch, const Accumulators<C>& zed, int num_heads,
                                               int warp_token, int warp_across, int lane) {
  for (int head = 0; head < num_heads; ++head) {
    const float* query = scratch.query + head * C + warp_across * Layout<C>::warp_columns + lane % 4 * 2;
    float score[4] = {};
#pragma unroll
    for (int n = 0; n < Layout<C>::column_tiles; ++n) {
      const float2 u = *reinterpret_cast<const float2*>(query + 8 * n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[i] = fmaf(zed[i / 2][n][i % 2 * 2], u.x, score[i]);
        score[i] = fmaf(zed[i / 2][n][i % 2 * 2 + 1], u.y, score[i]);
      }
    }
    float* target = scratch.score + (warp_across * num_heads + head) * Layout<C>::tokens + warp_token + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      score[i] += __shfl_xor_sync(FULL_WARP, score[i], 1);
      score[i] += __shfl_xor_sync(FULL_WARP, score[i], 2);
      if (lane % 4 == 0) target[8 * i] = score[i];
    }
  }
}

// One warp: scores of a head -> unnormalised probabilities against the maximum so far; tokens past `count` get 0.
template <int C>
__device__ __forceinline__ void update_softmax(const Scratch<C>& scratch, int num_heads, int head, int count, int lane,
                                               float& maximum, float& total) {
  constexpr int per_lane = Layout<C>::tokens / WARP_SIZE;
  float* score = scratch.score + head * Layout<C>::tokens;
  float value[per_lane];
  float tile_maximum = -INFINITY;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const int token = i * WARP_SIZE + lane;
    value[i] = -INFINITY;
    if (token < count) {
      value[i] = score[token];
      for (int across = 1; across < Layout<C>::warps_across; ++across) {
        value[i] += score[across * num_heads * Layout<C>::tokens + token];
      }
    }
    tile_maximum = fmaxf(tile_maximum, value[i]);
  }
  const float new_maximum = fmaxf(maximum, warp_max(tile_maximum));
  const float rescale = expf(maximum - new_maximum);
  float tile_total = 0;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const float probability = expf(value[i] - new_maximum);
    score[i * WARP_SIZE + lane] = probability;
    tile_total += probability;
  }
  maximum = new_maximum;
  total = total * rescale + warp_sum(tile_total);
  if (lane == 0) {
    scratch.rescale[head] = rescale;
    scratch.total[head] = total;
  }
}

// One step of a sum over lanes: of its 2 `half` sums a lane hands one half to the lane across `distance` and adds that
// lane's share to the other. Returns where the half it kept begins.
template <int half, int columns>
__device__ __forceinline__ int exchange_half(float (&sum)[columns], int lane, int distance) {
  const bool upper = lane & distance;
#pragma unroll
  for (int c = 0; c < half; ++c) {
    const float given = upper ? sum[c] : sum[c + half];
    const float kept = upper ? sum[c + half] : sum[c];
    sum[c] = kept + __shfl_xor_sync(FULL_WARP, given, distance);
  }
  return upper ? half : 0;
}

// context[warp_down, head, :] = context * rescale + sum of p_j Z_j over the tokens of a warp.
template <int C>
__device__ __forceinline__ void update_contexts(const Scratch<C>& scratch, const Accumulators<C>& zed, int num_heads,
                                                bool first_tile, int warp_down, int warp_across, int lane) {
  constexpr int columns = Layout<C>::columns;
  for (int head = 0; head < num_heads; ++head) {
    const float* probability = scratch.score + head * Layout<C>::tokens + warp_down * 32 + lane / 4;
    float sum[columns] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float p = probability[8 * i];
#pragma unroll
      for (int c = 0; c < columns; ++c) sum[c] = fmaf(p, zed[i / 2][c / 2][i % 2 * 2 + c % 2], sum[c]);
    }
    // Sum over the 8 lanes that share columns: each ends with the full sums of `columns` / 8 of them, from `owned` on.
    int owned = exchange_half<columns / 2>(sum, lane, 16);
    owned += exchange_half<columns / 4>(sum, lane, 8);
    owned += exchange_half<columns / 8>(sum, lane, 4);
    float* context = scratch.context + (warp_down * num_heads + head) * C + warp_across * Layout<C>::warp_columns;
#pragma unroll
    for (int c = 0; c < columns / 8; ++c) {
      float* target = context + (owned + c) / 2 * 8 + lane % 4 * 2 + (owned + c) % 2;
      *target = first_tile ? sum[c] : fmaf(*target, scratch.rescale[head], sum[c]);
    }
  }
}

// One warp: logits -> normalised entropy. With d = logit - maximum the entropy is log sum e^d - sum d e^d / sum e^d:
// two terms that are not negative, so nothing cancels.
__device__ __forceinline__ float compute_uncertainty(const float* logits, int num_labels, int lane) {
  float maximum = -INFINITY;
  for (int label = lane; label < num_labels; label += WARP_SIZE) maximum = fmaxf(maximum, logits[label]);
  maximum = warp_max(maximum);
  float sum = 0;
  float weighted = 0;
  for (int label = lane; label < num_labels; label += WARP_SIZE) {
    const float difference = logits[label] - maximum;
    const float exponential = expf(difference);
    sum += exponential;
    weighted += exponential > 0 ? difference * exponential : 0;  // 0 log 0 = 0
  }
  sum = warp_sum(sum);
  weighted = warp_sum(weighted);
  const float uncertainty = (logf(sum) - weighted / sum) / logf(static_cast<float>(num_labels));
  return uncertainty < 0 ? 0 : uncertainty;  // not fmaxf, which would turn a NaN into 0
}

// Contexts -> t -> logits -> uncertainty -> keep. `logits` is shared memory for the logits of the sample.
template <typename T, int C>
__device__ __forceinline__ void classify(const Scratch<C>& scratch, const Arguments& arguments, Stream<T, C>& stream,
                                         float* logits, int sample, int warp, int lane) {
  const int num_labels = arguments.num_labels;
  const int context_size = arguments.num_heads * C;
  __syncthreads();
  for (int i = threadIdx.x; i < context_size; i += THREADS) {
    float sum = 0;
#pragma unroll
    for (int down = 0; down < Layout<C>::warps_down; ++down) sum += scratch.context[down * context_size + i];
    scratch.query[i] = sum / scratch.total[i / C];
  }
  __syncthreads();
  float4 sum = make_float4(0, 0, 0, 0);
  for (int row = 0; row < context_size; row += Layout<C>::fold_rows) {
    multiply_fold<C>(sum, scratch.query + row, stream.next());
  }
  reinterpret_cast<float4*>(scratch.partial)[threadIdx.x] = sum;
  __syncthreads();
  for (int column = threadIdx.x; column < C; column += THREADS) {
    scratch.first[column] =
        tanhf(sum_slices<C>(scratch.partial, column) + __ldg(arguments.weights.value_bias + column));
  }
  __syncthreads();
  for (int base = warp * LABELS_AT_ONCE; base < num_labels; base += WARPS * LABELS_AT_ONCE) {
    float sum[LABELS_AT_ONCE] = {};
#pragma unroll
    for (int c = lane; c < C; c += WARP_SIZE) {
#pragma unroll
      for (int i = 0; i < LABELS_AT_ONCE; ++i) {
        const int64_t label = min(base + i, num_labels - 1);
        sum[i] = fmaf(scratch.first[c], __ldg(arguments.weights.output_weight + label * C + c), sum[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < LABELS_AT_ONCE; ++i) {
      const float logit = warp_sum(sum[i]);
      const int label = base + i;
      if (lane == 0 && label < num_labels) logits[label] = logit + __ldg(arguments.weights.output_bias + label);
    }
  }
  __syncthreads();
  for (int label = threadIdx.x; label < num_labels; label += THREADS) {
    arguments.outputs.logits[static_cast<int64_t>(sample) * num_labels + label] = logits[label];
  }
  if (warp == 0) {
    const float uncertainty = compute_uncertainty(logits, num_labels, lane);
    if (lane == 0) {
      arguments.outputs.uncertainty[sample] = uncertainty;
      arguments.outputs.keep[sample] = !(uncertainty < arguments.speed[sample]);
    }
  }
}

template <typename T, int C>
__global__ void __launch_bounds__(THREADS, 2) exit_head_kernel(const Arguments arguments) {
  using L = Layout<C>;
  FASTBERT_DYNAMIC_SHARED(shared);
  const int sample = blockIdx.x;
  const int64_t first_row = arguments.cu_seqlens[sample];
  const int length = arguments.cu_seqlens[sample + 1] - static_cast<int>(first_row);
  if (length <= 0) {
    for (int label = threadIdx.x; label < arguments.num_labels; label += THREADS) {
      arguments.outputs.logits[static_cast<int64_t>(sample) * arguments.num_labels + label] = NAN;
    }
    if (threadIdx.x == 0) {
      arguments.outputs.uncertainty[sample] = NAN;
      arguments.outputs.keep[sample] = 1;
    }
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

  const T* hidden = static_cast<const T*>(arguments.hidden) + first_row * arguments.hidden_size;
  Stream<T, C> stream(arguments, shared, hidden, length);

  float maximum = -INFINITY;  // of the head whose softmax this warp runs
  float total = 0;
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
#pragma unroll
      for (int n = 0; n < L::column_tiles; ++n) {
        const int column = warp_across * L::warp_columns + 8 * n + lane % 4 * 2;
        const float2 bias = *reinterpret_cast<const float2*>(scratch.bias + column);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float projected = zed[i][n][e] + (e % 2 ? bias.y : bias.x);
            zed[i][n][e] = sizeof(T) == 2 ? tanh_16bit(projected) : tanhf(projected);
          }
        }
        if (token == 0 && warp_down == 0 && lane < 4) {
          *reinterpret_cast<float2*>(scratch.first + column) = make_float2(zed[0][n][0], zed[0][n][1]);
        }
      }
    }
    if (token == 0) compute_queries<T, C>(scratch, arguments, stream);
    if (active) compute_scores<C>(scratch, zed, num_heads, warp_down * 32, warp_across, lane);
    __syncthreads();
    if (warp < num_heads) update_softmax<C>(scratch, num_heads, warp, count, lane, maximum, total);
    __syncthreads();
    update_contexts<C>(scratch, zed, num_heads, token == 0, warp_down, warp_across, lane);
  }
  classify<T, C>(scratch, arguments, stream, reinterpret_cast<float*>(shared), sample, warp, lane);
}

// As many stages as help: three leave room for a second block on the multiprocessor, which is worth more than a deeper
// ring when there are more samples than multiprocessors.
template <int C>
cudaError_t choose_stages(int64_t batch, int num_heads, int device, int& stages, size_t& shared_bytes) {
  int block_limit = 0;
  int multiprocessor_limit = 0;
  int multiprocessors = 0;
  cudaError_t status = cudaDeviceGetAttribute(&block_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&multiprocessor_limit, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  }
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  constexpr int reserved = 1024;  // by the system, in every block
  const int scratch_bytes = static_cast<int>(Scratch<C>::floats(num_heads) * sizeof(float));
  const int shared_limit = batch > multiprocessors ? multiprocessor_limit / 2 - reserved : block_limit;
  stages = (shared_limit - scratch_bytes) / Layout<C>::stage_bytes;
  if (stages < 3) stages = (block_limit - scratch_bytes) / Layout<C>::stage_bytes;
  if (stages > MAX_STAGES) stages = MAX_STAGES;
  if (stages < 2) return cudaErrorInvalidConfiguration;
  static_assert(MAX_LABELS * sizeof(float) <= 2 * Layout<C>::stage_bytes);
  shared_bytes = static_cast<size_t>(stages) * Layout<C>::stage_bytes + scratch_bytes;
  return cudaSuccess;
}

template <typename T, int C>
cudaError_t launch(Arguments arguments, int64_t batch, int device, void* stream) {
  size_t shared_bytes = 0;
  cudaError_t status = choose_stages<C>(batch, arguments.num_heads, device, arguments.stages, shared_bytes);
  if (status != cudaSuccess) return status;
  arguments.chunks = (arguments.hidden_size * static_cast<int>(sizeof(T)) + CHUNK_BYTES - 1) / CHUNK_BYTES;
  const auto kernel = exit_head_kernel<T, C>;
  status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shared_bytes));
  if (status != cudaSuccess) return status;
  FASTBERT_LAUNCH(kernel, static_cast<unsigned>(batch), THREADS, shared_bytes, stream, arguments);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch(const Arguments& arguments, const ExitHeadShape& shape, int device, void* stream) {
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

const char* exit_head_unsupported(const ExitHeadShape& shape, DType dtype) {
  if (dtype != DType::float32 && dtype != DType::bfloat16 && dtype != DType::float16) {
    return "the CUDA exit head takes float32, bfloat16 or float16";
  }
  if (shape.hidden_size <= 0 || shape.hidden_size % 8 != 0 || shape.hidden_size > 65536) {
    return "the CUDA exit head needs a hidden size that is a multiple of 8, up to 65536";
  }
  if (shape.narrow_size != 64 && shape.narrow_size != 128 && shape.narrow_size != 256) {
    return "the CUDA exit head needs a narrow size of 64, 128 or 256";
  }
  if (shape.num_heads < 1 || shape.num_heads > MAX_HEADS) return "the CUDA exit head takes 1 to 8 heads";
  if (shape.num_labels < 2 || shape.num_labels > MAX_LABELS) return "the CUDA exit head takes 2 to 8192 labels";
  if (shape.batch > INT32_MAX || shape.tokens > INT32_MAX) {
    return "the CUDA exit head takes up to 2^31 - 1 samples and tokens";
  }
  return nullptr;
}

int exit_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const float* speed,
              const ExitHeadWeights& weights, const ExitHeadShape& shape, const ExitHeadOutputs& outputs, int device,
              void* stream) {
  if (exit_head_unsupported(shape, dtype) != nullptr) return cudaErrorInvalidValue;
  if (shape.batch <= 0) return cudaSuccess;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  Arguments arguments = {};
  arguments.hidden = hidden;
  arguments.cu_seqlens = cu_seqlens;
  arguments.speed = speed;
  arguments.weights = weights;
  arguments.outputs = outputs;
  arguments.hidden_size = static_cast<int>(shape.hidden_size);
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
