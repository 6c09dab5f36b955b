// What a block of the exit head holds in shared memory: a ring of stages that chunks of the inputs stream through, and
// scratch arrays. How a chunk is copied and how it is multiplied stand side by side, because both must agree on where
// things lie. A chunk is one of
//
//   tile    128 bytes of each token row of a tile and of each row of projection_weight, 16-byte units spread over banks
//   query   some rows of [h * C, C], as they lie in memory
//   value   the same
#pragma once
#include "../exit_head.h"
#include "device.cuh"
#include "ptx.cuh"

namespace fastbert::cuda {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int CHUNK_BYTES = 128;  // of one row in one stage: 8 units of 16 bytes
constexpr int UNITS = CHUNK_BYTES / 16;
constexpr int ROWS_PER_COPY = THREADS / UNITS;
constexpr int MAX_STAGES = 6;

struct Arguments {
  const void* hidden;
  const int32_t* cu_seqlens;
  const float* speed;
  ExitHeadWeights weights;
  ExitHeadOutputs outputs;
  int hidden_size;
  int chunks;  // of a tile
  int num_heads;
  int num_labels;
  int stages;
};

// How the block's warps share a tile of Z.
template <int C>
struct Layout {
  static constexpr int warps_across = C == 256 ? 4 : 2;    // along the narrow size
  static constexpr int warps_down = WARPS / warps_across;  // along the tokens
  static constexpr int tokens = 32 * warps_down;           // 2 row tiles of 16 a warp
  static constexpr int warp_columns = C / warps_across;
  static constexpr int column_tiles = warp_columns / 8;
  static constexpr int columns = 2 * column_tiles;      // that one thread holds of a row
  static constexpr int slices = THREADS / (C / 4);      // of a vector-matrix product's rows
  static constexpr int fold_rows = C == 256 ? 32 : 64;  // of query or value in a chunk
  static constexpr int stage_bytes = (tokens + C) * CHUNK_BYTES;
};

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

  static constexpr size_t floats(int heads) {
    return 2 * C + heads * C + 4 * THREADS + heads * Layout<C>::warps_across * Layout<C>::tokens +
           heads * Layout<C>::warps_down * C + 2 * heads;
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
  }
};

// Z of a tile. zed[i][n][e] of a thread is at token 16 i + 8 (e / 2) + lane / 4 and column 8 n + 2 (lane % 4) + e % 2
// of its warp's part: the layout in which the matrix units accumulate.
template <int C>
using Accumulators = float[2][Layout<C>::column_tiles][4];

// Where a unit of a row lies in a stage. The exclusive or spreads 8 rows of the same unit over all banks.
__device__ __forceinline__ int unit_offset(int row, int unit) {
  return row * CHUNK_BYTES + (unit ^ (row % UNITS)) * 16;
}

// Starts the copy of one chunk of `count` rows (at most `capacity`) to shared memory. Rows up to the next multiple of
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

// Starts the copy of rows [begin, begin + fold_rows) of query or value, [h * C, C], as they lie.
template <int C>
__device__ __forceinline__ void copy_fold(unsigned char* stage, const float* matrix, int begin) {
  const float* source = matrix + static_cast<int64_t>(begin) * C;
#pragma unroll
  for (int i = threadIdx.x; i < Layout<C>::fold_rows * C / 4; i += THREADS) {
    copy_16_bytes_async(stage + 16 * i, source + 4 * i, true);
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
#pragma unroll 1
  for (int unit = 0; unit < UNITS; ++unit) {
    float4 tokens[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      tokens[i] = *reinterpret_cast<const float4*>(hidden_rows + unit_offset(8 * i + lane / 4, unit));
    }
#pragma unroll
    for (int column = 0; column < Layout<C>::columns; ++column) {
      const int row = column / 2 * 8 + lane % 4 * 2 + column % 2;
      const float4 weight = *reinterpret_cast<const float4*>(weight_rows + unit_offset(row, unit));
#pragma unroll
      for (int i = 0; i < 4; ++i) add_product(zed[i / 2][column / 2][i % 2 * 2 + column % 2], tokens[i], weight);
    }
  }
}

// sum += vector[k] matrix[k, :] over the rows of a chunk that this thread has; it has 4 columns of one slice of the
// rows.
template <int C>
__device__ __forceinline__ void multiply_fold(float4& sum, const float* vector, const unsigned char* stage) {
#pragma unroll
  for (int i = 0; i < Layout<C>::fold_rows / Layout<C>::slices; ++i) {
    const float factor = vector[i * Layout<C>::slices + threadIdx.x / (C / 4)];
    const float4 row = reinterpret_cast<const float4*>(stage)[i * THREADS + threadIdx.x];
    sum.x = fmaf(factor, row.x, sum.x);
    sum.y = fmaf(factor, row.y, sum.y);
    sum.z = fmaf(factor, row.z, sum.z);
    sum.w = fmaf(factor, row.w, sum.w);
  }
}

// The chunks that a block reads, in the order in which it uses them. `next` gives the next one once it is there for all
// warps.
template <typename T, int C>
class Stream {
 public:
  __device__ __forceinline__ Stream(const Arguments& arguments, unsigned char* stages, const T* hidden, int length)
      : arguments_(arguments), stages_(stages), hidden_(hidden), length_(length) {
    for (int i = 0; i < arguments.stages - 1; ++i) copy_next();
  }

  __device__ __forceinline__ const unsigned char* next() {
    switch (arguments_.stages) {  // all but the latest stages - 2 copies must be there
      case 2:
        wait_for_copies<0>();
        break;
      case 3:
        wait_for_copies<1>();
        break;
      case 4:
        wait_for_copies<2>();
        break;
      case 5:
        wait_for_copies<3>();
        break;
      default:
        wait_for_copies<MAX_STAGES - 2>();
        break;
    }
    __syncthreads();  // the chunk is there for every warp, and no warp still reads the stage that is filled next
    copy_next();
    const unsigned char* stage = stages_ + read_stage_ * Layout<C>::stage_bytes;
    if (++read_stage_ == arguments_.stages) read_stage_ = 0;
    return stage;
  }

 private:
  enum Part { TILE, QUERY, VALUE, END };

  __device__ __forceinline__ void copy_next() {
    unsigned char* stage = stages_ + write_stage_ * Layout<C>::stage_bytes;
    if (++write_stage_ == arguments_.stages) write_stage_ = 0;
    int chunks = arguments_.num_heads * (C / Layout<C>::fold_rows);
    if (part_ == TILE) {
      chunks = arguments_.chunks;
      copy_chunk<T, Layout<C>::tokens>(stage, hidden_ + static_cast<int64_t>(token_) * arguments_.hidden_size,
                                       min(length_ - token_, Layout<C>::tokens), arguments_.hidden_size, chunk_);
      copy_chunk<T, C>(stage + Layout<C>::tokens * CHUNK_BYTES,
                       static_cast<const T*>(arguments_.weights.projection_weight), C, arguments_.hidden_size, chunk_);
    } else if (part_ != END) {
      copy_fold<C>(stage, part_ == QUERY ? arguments_.weights.query : arguments_.weights.value,
                   chunk_ * Layout<C>::fold_rows);
    }
    commit_copies();
    if (++chunk_ < chunks) return;
    chunk_ = 0;
    if (part_ == TILE) token_ += Layout<C>::tokens;
    if (part_ == TILE && token_ == Layout<C>::tokens) {
      part_ = QUERY;
    } else if (part_ != VALUE && part_ != END) {
      part_ = token_ < length_ ? TILE : VALUE;
    } else {
      part_ = END;
    }
  }

  const Arguments& arguments_;
  unsigned char* stages_;
  const T* hidden_;
  int length_;
  int read_stage_ = 0;
  int write_stage_ = 0;
  Part part_ = TILE;  // of the next chunk to copy
  int token_ = 0;
  int chunk_ = 0;
};

}  // namespace fastbert::cuda
