// The attentive head with narrow_activation = identity, without a projection of every token: csrc/attentive_head.h has the
// formulas. In one launch, one block of 8 warps per sample:
//
//   x_0         -> Z_0 = x_0 projection_weight^T + projection_bias -> u_i -> keys_i = u_i projection_weight     [h, H]
//   all tokens  -> scores keys_i . x_j -> running maximum and sum -> contexts += p_ij x_j (online softmax)      [h, H]
//   contexts    -> c_i = contexts_i projection_weight^T + projection_bias -> t -> logits -> decision
//
// Tokens come in tiles of 16 through a ring of stages that cp.async fills, the first while the keys are computed. A
// warp scores two tokens, a warp is the softmax of a head, and a thread adds to the contexts of two heads in 16 bytes
// of columns.
//
// Memory traffic of a block: its rows of `hidden` once from global memory; from the L2 cache the projection weights
// three times, and query, value and output weights once. The other kernel (attentive_head.cu) reads the projection weights
// once a tile of 128 tokens (64 when C = 256), so with 16-bit inputs, whose products the matrix units do on the way, it
// reads less up to three tiles: it takes batches of up to three tiles of tokens a sample, on average. In float32 the
// products themselves are its time: 2 H C operations a token against 4 h H here, 16 times as many with C = 128 and 4
// heads, so all batches come here.
#pragma once
#include "device.cuh"
#include "attentive_head_arguments.cuh"
#include "ptx.cuh"
#include "vector_matrix.cuh"

namespace fastbert::cuda {

constexpr int TILE_TOKENS = 2 * WARPS;
constexpr int HEADS_AT_ONCE = 4;  // that share one reading of the projection weights

// The arrays of float that follow the ring of stages.
struct LinearScratch {
  float* keys;     // [h, H] split; before them x_0 [H] split, at the end the normalised contexts
  float* partial;  // of products by columns; then the contexts [slices, h, H] split
  float* first;    // [C] Z_0; at the end t
  float* query;    // [h, C] u_i; at the end c_i
  float* score;    // [h + 1, TILE_TOKENS], probabilities after the softmax; the zeros at the end pair with an odd head
  float* rescale;  // [h] what the contexts so far shrink by
  float* total;    // [h] sum of the unnormalised probabilities
  int context_slices;

  // Threads share the contexts in pairs of heads and units of columns; what is left over of them, in slices of tokens.
  __host__ __device__ static int slices(int pairs, int units) {
    return pairs * units < THREADS ? THREADS / (pairs * units) : 1;
  }

  template <typename T>
  static int64_t partial_size(int64_t hidden_size, int heads) {
    const int units = static_cast<int>(hidden_size) / UNIT_SIZE<T>;
    const int64_t contexts = slices((heads + 1) / 2, units) * heads * hidden_size;
    const int64_t products =
        partial_floats<T>(static_cast<int>(hidden_size), heads < HEADS_AT_ONCE ? heads : HEADS_AT_ONCE);
    return contexts > products ? contexts : products;
  }

  template <typename T>
  static int64_t floats(const Arguments& arguments) {
    const int64_t heads = arguments.num_heads;
    return heads * arguments.hidden_size + partial_size<T>(arguments.hidden_size, arguments.num_heads) +
           (heads + 1) * arguments.narrow_size + (heads + 1) * TILE_TOKENS + 2 * heads;
  }
};

template <typename T>
__device__ __forceinline__ LinearScratch make_scratch(float* memory, const Arguments& arguments, int partial_size) {
  const int heads = arguments.num_heads;
  LinearScratch scratch = {};
  scratch.keys = memory;
  scratch.partial = scratch.keys + heads * arguments.hidden_size;
  scratch.first = scratch.partial + partial_size;
  scratch.query = scratch.first + arguments.narrow_size;
  scratch.score = scratch.query + heads * arguments.narrow_size;
  scratch.rescale = scratch.score + (heads + 1) * TILE_TOKENS;
  scratch.total = scratch.rescale + heads;
  scratch.context_slices = LinearScratch::slices((heads + 1) / 2, arguments.hidden_size / UNIT_SIZE<T>);
  return scratch;
}

// Start the copy of tile `tile`; rows of a sample are one piece of memory.
template <typename T>
__device__ __forceinline__ void copy_tile(const Arguments& arguments, unsigned char* stages, const T* hidden,
                                          int length, int tile) {
  const int first_token = tile * TILE_TOKENS;
  const int count = min(length - first_token, TILE_TOKENS);
  const int units = arguments.hidden_size / UNIT_SIZE<T>;
  unsigned char* stage = stages + static_cast<int64_t>(tile % arguments.stages) * TILE_TOKENS * units * 16;
  const T* source = hidden + static_cast<int64_t>(first_token) * arguments.hidden_size;
  for (int i = threadIdx.x; i < count * units; i += THREADS) {
    copy_16_bytes_async(stage + 16 * i, source + UNIT_SIZE<T> * i, true);
  }
  commit_copies();
}

// out[column] = vector [rows] times query or value from row `begin` on, plus bias.
template <typename T, typename Write>
__device__ __forceinline__ void multiply_folded(const Arguments& arguments, const void* matrix, int begin, int rows,
                                                const float* vector, float* partial, Write write) {
  const int columns = arguments.narrow_size;
  if (sizeof(T) == 4 || arguments.weights.fold_dtype == DType::float32) {
    const float* from = static_cast<const float*>(matrix) + static_cast<int64_t>(begin) * columns;
    multiply_columns<float, 1>(from, rows, columns, vector, 0, 1, partial, write);
  } else {
    const T* from = static_cast<const T*>(matrix) + static_cast<int64_t>(begin) * columns;
    multiply_columns<T, 1>(from, rows, columns, vector, 0, 1, partial, write);
  }
}

template <typename T>
__device__ __forceinline__ void compute_keys(const Arguments& arguments, const LinearScratch& scratch,
                                             const T* hidden) {
  const int hidden_size = arguments.hidden_size;
  const int narrow_size = arguments.narrow_size;
  const T* weight = static_cast<const T*>(arguments.weights.projection_weight);
  for (int unit = threadIdx.x; unit < hidden_size / UNIT_SIZE<T>; unit += THREADS) {
    float x[UNIT_SIZE<T>];
    unpack<T>(x, load_unit(hidden, unit));
#pragma unroll
    for (int e = 0; e < UNIT_SIZE<T>; ++e) scratch.keys[split_index<T>(unit * UNIT_SIZE<T> + e, hidden_size)] = x[e];
  }
  __syncthreads();
  multiply_rows<T, 1, 4>(weight, narrow_size, hidden_size, scratch.keys, 1, [&](int, int column, float sum) {
    scratch.first[column] = sum + __ldg(arguments.weights.projection_bias + column);
  });
  __syncthreads();
  for (int head = 0; head < arguments.num_heads; ++head) {
    multiply_folded<T>(arguments, arguments.weights.query, head * narrow_size, narrow_size, scratch.first,
                       scratch.partial, [&](int, int column, float sum) {
                         const int index = head * narrow_size + column;
                         scratch.query[index] = sum + __ldg(arguments.weights.query_bias + index);
                       });
  }
  for (int head = 0; head < arguments.num_heads; head += HEADS_AT_ONCE) {
    multiply_columns<T, HEADS_AT_ONCE>(weight, narrow_size, hidden_size, scratch.query + head * narrow_size,
                                       narrow_size, min(arguments.num_heads - head, HEADS_AT_ONCE), scratch.partial,
                                       [&](int i, int column, float sum) {
                                         const int index = split_index<T>(column, hidden_size);
                                         scratch.keys[(head + i) * hidden_size + index] = sum;
                                       });
  }
}

// score[head, token] = keys_i . x_j for the two tokens of a warp.
template <typename T>
__device__ __forceinline__ void compute_tile_scores(const LinearScratch& scratch, const uint4* tile, int hidden_size,
                                                    int num_heads, int count, int warp, int lane) {
  if (warp >= count) return;
  const int units = hidden_size / UNIT_SIZE<T>;
  const uint4* rows[2] = {tile + warp * units, tile + min(warp + WARPS, count - 1) * units};
  float sum[MAX_HEADS][2] = {};
  for (int unit = lane; unit < units; unit += WARP_SIZE) {
    float x[2][UNIT_SIZE<T>];
    unpack<T>(x[0], rows[0][unit]);
    unpack<T>(x[1], rows[1][unit]);
#pragma unroll
    for (int head = 0; head < MAX_HEADS; ++head) {
      if (head >= num_heads) break;
      float key[UNIT_SIZE<T>];
      load_split<T>(key, scratch.keys + head * hidden_size, unit, hidden_size);
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) {
        sum[head][0] = fmaf(key[e], x[0][e], sum[head][0]);
        sum[head][1] = fmaf(key[e], x[1][e], sum[head][1]);
      }
    }
  }
#pragma unroll
  for (int head = 0; head < MAX_HEADS; ++head) {
    if (head >= num_heads) break;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float score = warp_sum(sum[head][i]);
      if (lane == 0) scratch.score[head * TILE_TOKENS + warp + i * WARPS] = score;
    }
  }
}

// One warp: scores of a head -> unnormalised probabilities against the maximum so far.
__device__ __forceinline__ void update_tile_softmax(const LinearScratch& scratch, int head, int count, int lane,
                                                    float& maximum, float& total) {
  float* score = scratch.score + head * TILE_TOKENS;
  const float value = lane < count ? score[lane] : -INFINITY;
  const float new_maximum = fmaxf(maximum, warp_max(value));
  const float rescale = expf(maximum - new_maximum);
  const float probability = expf(value - new_maximum);
  if (lane < count) score[lane] = probability;
  maximum = new_maximum;
  total = total * rescale + warp_sum(probability);
  if (lane == 0) {
    scratch.rescale[head] = rescale;
    scratch.total[head] = total;
  }
}

// context[slice, head, :] = context * rescale + sum of p_j x_j over every `slices`-th token of the tile.
template <typename T>
__device__ __forceinline__ void update_tile_contexts(const LinearScratch& scratch, const uint4* tile, int hidden_size,
                                                     int num_heads, int count, bool first_tile) {
  const int units = hidden_size / UNIT_SIZE<T>;
  const int pairs = (num_heads + 1) / 2;
  for (int item = threadIdx.x; item < scratch.context_slices * pairs * units; item += THREADS) {
    const int unit = item % units;
    const int pair = item / units % pairs;
    const int slice = item / (units * pairs);
    const float* probability = scratch.score + 2 * pair * TILE_TOKENS;
    float sum[2][UNIT_SIZE<T>] = {};
    for (int token = slice; token < count; token += scratch.context_slices) {
      float x[UNIT_SIZE<T>];
      unpack<T>(x, tile[token * units + unit]);
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) {
        sum[0][e] = fmaf(probability[token], x[e], sum[0][e]);
        sum[1][e] = fmaf(probability[TILE_TOKENS + token], x[e], sum[1][e]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = 2 * pair + i;
      if (head >= num_heads) break;
      float* context = scratch.partial + (slice * num_heads + head) * hidden_size;
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) {
        float& target = context[split_index<T>(unit * UNIT_SIZE<T> + e, hidden_size)];
        target = first_tile ? sum[i][e] : fmaf(target, scratch.rescale[head], sum[i][e]);
      }
    }
  }
}

// Contexts -> c_i -> t.
template <typename T>
__device__ __forceinline__ void compute_linear_features(const Arguments& arguments, const LinearScratch& scratch) {
  const int hidden_size = arguments.hidden_size;
  const int narrow_size = arguments.narrow_size;
  const int size = arguments.num_heads * hidden_size;
  for (int i = threadIdx.x; i < size; i += THREADS) {
    float sum = 0;
    for (int slice = 0; slice < scratch.context_slices; ++slice) sum += scratch.partial[slice * size + i];
    scratch.keys[i] = sum / scratch.total[i / hidden_size];
  }
  __syncthreads();
  for (int head = 0; head < arguments.num_heads; head += HEADS_AT_ONCE) {
    multiply_rows<T, HEADS_AT_ONCE, 2>(static_cast<const T*>(arguments.weights.projection_weight), narrow_size,
                                       hidden_size, scratch.keys + head * hidden_size,
                                       min(arguments.num_heads - head, HEADS_AT_ONCE),
                                       [&](int i, int column, float sum) {
                                         const float bias = __ldg(arguments.weights.projection_bias + column);
                                         scratch.query[(head + i) * narrow_size + column] = sum + bias;
                                       });
  }
  __syncthreads();
  multiply_folded<T>(arguments, arguments.weights.value, 0, arguments.num_heads * narrow_size, scratch.query,
                     scratch.partial, [&](int, int column, float sum) {
                       const float biased = sum + __ldg(arguments.weights.value_bias + column);
                       scratch.first[column] = activate(arguments.weights.mlp_activation, biased);
                     });
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 2)
    linear_attentive_head_kernel(const Arguments arguments, int scratch_offset, int partial_size) {
  FASTBERT_DYNAMIC_SHARED(shared);
  const int sample = blockIdx.x;
  const auto [first_row, length] = rows_of(arguments.cu_seqlens, sample, arguments.tokens);
  if (length == 0) {
    decide_without_tokens(arguments.decision, arguments.outputs, arguments.num_labels, sample);
    return;
  }

  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  const int num_heads = arguments.num_heads;
  const int hidden_size = arguments.hidden_size;
  const int tiles = (length + TILE_TOKENS - 1) / TILE_TOKENS;
  const int64_t stage_bytes = static_cast<int64_t>(TILE_TOKENS) * hidden_size * sizeof(T);
  const auto scratch = make_scratch<T>(reinterpret_cast<float*>(shared + scratch_offset), arguments, partial_size);
  const T* hidden = static_cast<const T*>(arguments.hidden) + first_row * hidden_size;
  for (int tile = 0; tile < arguments.stages - 1; ++tile) copy_tile(arguments, shared, hidden, length, tile);
  if (threadIdx.x < TILE_TOKENS) scratch.score[num_heads * TILE_TOKENS + threadIdx.x] = 0;
  compute_keys(arguments, scratch, hidden);

  float maximum = -INFINITY;  // of the head whose softmax this warp runs
  float total = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const int count = min(length - tile * TILE_TOKENS, TILE_TOKENS);
    wait_for_all_but(arguments.stages - 2);
    __syncthreads();  // the tile is there for every warp, and no warp still reads the stage that is filled next
    copy_tile(arguments, shared, hidden, length, tile + arguments.stages - 1);
    const auto* rows = reinterpret_cast<const uint4*>(shared + tile % arguments.stages * stage_bytes);
    compute_tile_scores<T>(scratch, rows, hidden_size, num_heads, count, warp, lane);
    __syncthreads();
    if (warp < num_heads) update_tile_softmax(scratch, warp, count, lane, maximum, total);
    __syncthreads();
    update_tile_contexts<T>(scratch, rows, hidden_size, num_heads, count, tile == 0);
  }
  __syncthreads();
  compute_linear_features<T>(arguments, scratch);
  classify(arguments, scratch.first, arguments.narrow_size, reinterpret_cast<float*>(shared), sample);
}

// Launch the kernel, unless the other one reads less (see the top) or shared memory is too small: then `launched`
// stays false.
template <typename T>
cudaError_t launch_linear(Arguments arguments, const AttentiveHeadShape& shape, int device, void* stream,
                          bool& launched) {
  const int64_t tile_tokens = shape.narrow_size == 256 ? 64 : 128;  // of the other kernel
  if (sizeof(T) == 2 && shape.tokens <= 3 * tile_tokens * shape.batch) return cudaSuccess;
  DeviceLimits limits = {};
  cudaError_t status = device_limits(device, limits);
  if (status != cudaSuccess) return status;
  const int64_t stage_bytes = static_cast<int64_t>(TILE_TOKENS) * arguments.hidden_size * sizeof(T);
  const int64_t scratch_bytes = LinearScratch::floats<T>(arguments) * static_cast<int64_t>(sizeof(float));
  const int64_t logits_bytes = arguments.num_labels * static_cast<int64_t>(sizeof(float));
  const int64_t least = 2 * stage_bytes > logits_bytes ? 2 * stage_bytes : logits_bytes;
  if (least + scratch_bytes + 16 > limits.block) return cudaSuccess;
  arguments.stages = choose_stages(limits, shape.batch, static_cast<int>(scratch_bytes), static_cast<int>(stage_bytes));
  const int64_t ring_bytes = arguments.stages * stage_bytes;
  // The logits take the place of the stages; what follows them stays on 16 bytes.
  const int64_t scratch_offset = ((ring_bytes > logits_bytes ? ring_bytes : logits_bytes) + 15) / 16 * 16;
  const auto partial_size =
      static_cast<int>(LinearScratch::partial_size<T>(arguments.hidden_size, arguments.num_heads));
  const int64_t shared_bytes = scratch_offset + scratch_bytes;
  const auto kernel = linear_attentive_head_kernel<T>;
  status = allow_shared_memory(kernel, device, limits.block);
  if (status != cudaSuccess) return status;
  FASTBERT_LAUNCH(kernel, static_cast<unsigned>(shape.batch), THREADS, static_cast<size_t>(shared_bytes), stream,
                  arguments, static_cast<int>(scratch_offset), partial_size);
  launched = true;
  return cudaGetLastError();
}

}  // namespace fastbert::cuda
