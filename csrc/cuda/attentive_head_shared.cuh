// The shared memory of a block of the attentive head: a ring of stages that chunks of the inputs stream through, and
// scratch arrays. How a chunk is copied and how it is multiplied stand side by side, because both must agree on where
// things lie. A chunk is one of
//
//   tile    128 bytes of each token row of a tile and of each row of projection_weight, 16-byte units spread over banks
//   query   some rows of [h * C, C], as they lie in memory
//   value   the same
#pragma once
#include "device.cuh"
#include "attentive_head_arguments.cuh"
#include "ptx.cuh"
#include "vector_matrix.cuh"

namespace fastbert::cuda {

constexpr int CHUNK_BYTES = 128;  // of one row in one stage: 8 units of 16 bytes
constexpr int UNITS = CHUNK_BYTES / 16;
constexpr int ROWS_PER_COPY = THREADS / UNITS;

// How the block's warps share a tile of Z.
template <int C>
struct Layout {
  static constexpr int warps_across = C == 256 ? 4 : 2;    // along the narrow size
  static constexpr int warps_down = WARPS / warps_across;  // along the tokens
  static constexpr int tokens = 32 * warps_down;           // 2 row tiles of 16 a warp
  static constexpr int warp_columns = C / warps_across;
  static constexpr int column_tiles = warp_columns / 8;
  static constexpr int columns = 2 * column_tiles;            // that one thread holds of a row
  static constexpr int slices = THREADS / (C / 4);            // of a vector-matrix product's rows
  static constexpr int fold_bytes = C == 64 ? 16384 : 32768;  // of query or value in a chunk
  static constexpr int stage_bytes = (tokens + C) * CHUNK_BYTES;
};

// Rows of query or value in a chunk: as many as fit, up to those of one head.
template <typename F, int C>
constexpr int FOLD_ROWS = Layout<C>::fold_bytes / (C * static_cast<int>(sizeof(F))) < C
                              ? Layout<C>::fold_bytes / (C * static_cast<int>(sizeof(F)))
                              : C;

// The arrays of float that follow the ring of stages.
template <int C>
struct Scratch {
  float* bias;     // [C]
  float* first;    // [C] Z_0; at the end t
  float* query;    // [h, C] u_i; at the end the normalised contexts
  float* partial;  // [slices, C] of a vector-matrix product
  float* score;    // [warps_across, h, tokens]; the softmax turns row 0 into probabilities
  float* context;  // [warps_down, h, C]
  float* rescale;  // [h] what the contexts so far shrink by
  float* total;    // [h] sum of the unnormalised probabilities
  float* maximum;  // [h] of the scores so far; not in registers, of which a warp has none to spare

  static constexpr size_t floats(int heads) {
    return 2 * C + heads * C + 4 * THREADS + heads * Layout<C>::warps_across * Layout<C>::tokens +
           heads * Layout<C>::warps_down * C + 3 * heads;
  }

  __device__ Scratch(float* memory, int heads) {
    bias = memory;
    first = bias + C;
    query = first + C;
    partial = query + heads * C;
    score = partial + 4 * THREADS;
    context = score + heads * Layout<C>::warps_across * Layout<C>::tokens;
    rescale = context + heads * Layout<C>::warps_down * C;
    total = rescale + heads;
    maximum = total + heads;
  }
};

// Z of a tile. zed[i][n][e] of a thread is at token 16 i + 8 (e / 2) + lane / 4 and column 8 n + 2 (lane % 4) + e % 2
// of its warp's part: the layout in which the matrix units accumulate.
template <int C>
using Accumulators = float[2][Layout<C>::column_tiles][4];

// The place of a unit of a row in a stage. The exclusive or spreads 8 rows of the same unit over all banks.
__device__ __forceinline__ int unit_offset(int row, int unit) {
  return row * CHUNK_BYTES + (unit ^ (row % UNITS)) * 16;
}

// Start the copy of one chunk of `count` rows (at most `capacity`) to shared memory. Rows up to the next multiple of
// 32 and columns past the hidden size become zero; further rows are left alone, no warp with tokens reads them.
template <typename T, int capacity>
__device__ __forceinline__ void copy_chunk(unsigned char* stage, const T* source, int count, int hidden_size,
                                           int chunk) {
  const int lane_row = threadIdx.x / UNITS;
  const int unit = threadIdx.x % UNITS;
  const int column = (chunk * UNITS + unit) * static_cast<int>(16 / sizeof(T));
  const bool inside = column < hidden_size;
  const T* address = source + static_cast<int64_t>(lane_row) * hidden_size + column;
  unsigned char* target = stage + unit_offset(lane_row, unit);
#pragma unroll
  for (int base = 0; base < capacity; base += ROWS_PER_COPY) {
    if (base >= count) break;
    const bool valid = inside && base + lane_row < count;
    copy_16_bytes_async(target + base * CHUNK_BYTES, valid ? address : source, valid);
    address += static_cast<int64_t>(ROWS_PER_COPY) * hidden_size;
  }
}

// Start the copy of the FOLD_ROWS rows from `begin` of query or value, [h * C, C] of F, as they lie.
template <typename F, int C>
__device__ __forceinline__ void copy_fold(unsigned char* stage, const void* matrix, int begin) {
  const F* source = static_cast<const F*>(matrix) + static_cast<int64_t>(begin) * C;
  constexpr int units = FOLD_ROWS<F, C> * C / UNIT_SIZE<F>;
#pragma unroll
  for (int i = threadIdx.x; i < units; i += THREADS) {
    copy_16_bytes_async(stage + 16 * i, source + UNIT_SIZE<F> * i, true);
  }
}

// zed += hidden chunk x weight chunk^T on the matrix units, for a warp's 32 tokens and its columns.
template <typename T, int C>
__device__ __forceinline__ void multiply_chunk(Accumulators<C>& zed, const unsigned char* hidden_rows,
                                               const unsigned char* weight_rows, int lane) {
#pragma unroll
  for (int step = 0; step < UNITS / 2; ++step) {
    uint32_t tokens[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      load_matrices(tokens[i], hidden_rows + unit_offset(16 * i + lane % 16, 2 * step + lane / 16));
    }
#pragma unroll
    for (int pair = 0; pair < Layout<C>::column_tiles / 2; ++pair) {
      uint32_t columns[4];
      load_matrices(columns, weight_rows + unit_offset(16 * pair + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        multiply_16x8x16<T>(zed[i][2 * pair], tokens[i], columns[0], columns[1]);
        multiply_16x8x16<T>(zed[i][2 * pair + 1], tokens[i], columns[2], columns[3]);
      }
    }
  }
}

__device__ __forceinline__ void add_product(float& sum, float4 a, float4 b) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
  sum = fmaf(a.z, b.z, sum);
  sum = fmaf(a.w, b.w, sum);
}

// The same in float32.
template <int C>
__device__ __forceinline__ void multiply_chunk_float(Accumulators<C>& zed, const unsigned char* hidden_rows,
                                                     const unsigned char* weight_rows, int lane) {
  // Rows 8 apart have their units in the same order, so a few addresses do for all, with constants between.
  constexpr int step = 8 * CHUNK_BYTES;
#pragma unroll 1
  for (int unit = 0; unit < UNITS; ++unit) {
    const unsigned char* token_row = hidden_rows + unit_offset(lane / 4, unit);
    const unsigned char* column_rows[2] = {weight_rows + unit_offset(lane % 4 * 2, unit),
                                           weight_rows + unit_offset(lane % 4 * 2 + 1, unit)};
    float4 tokens[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) tokens[i] = *reinterpret_cast<const float4*>(token_row + i * step);
#pragma unroll
    for (int column = 0; column < Layout<C>::columns; ++column) {
      const float4 weight = *reinterpret_cast<const float4*>(column_rows[column % 2] + column / 2 * step);
#pragma unroll
      for (int i = 0; i < 4; ++i) add_product(zed[i / 2][column / 2][i % 2 * 2 + column % 2], tokens[i], weight);
    }
  }
}

// Four neighbouring elements.
template <typename F>
__device__ __forceinline__ float4 load_four(const unsigned char* stage, int index) {
  if constexpr (sizeof(F) == 4) {
    return reinterpret_cast<const float4*>(stage)[index];
  } else {
    const uint2 raw = reinterpret_cast<const uint2*>(stage)[index];
    const float2 low = unpack_pair<F>(raw.x);
    const float2 high = unpack_pair<F>(raw.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
}

// sum += vector[k] matrix[k, :] over the rows of a chunk that this thread has; it has 4 columns of one slice of the
// rows.
template <typename F, int C>
__device__ __forceinline__ void multiply_fold(float4& sum, const float* vector, const unsigned char* stage) {
#pragma unroll 4
  for (int i = 0; i < FOLD_ROWS<F, C> / Layout<C>::slices; ++i) {
    const float factor = vector[i * Layout<C>::slices + threadIdx.x / (C / 4)];
    const float4 row = load_four<F>(stage, i * THREADS + threadIdx.x);
    sum.x = fmaf(factor, row.x, sum.x);
    sum.y = fmaf(factor, row.y, sum.y);
    sum.z = fmaf(factor, row.z, sum.z);
    sum.w = fmaf(factor, row.w, sum.w);
  }
}

}  // namespace fastbert::cuda
