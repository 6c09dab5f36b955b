// The order in which a block of the attentive head reads its chunks (attentive_head_shared.cuh), several ahead of their use.
#pragma once
#include "attentive_head_shared.cuh"

namespace fastbert::cuda {

// The chunks that a block reads, in the order in which it uses them. `next` gives the next one once it is there for all
// warps.
template <typename T, int C>
class Stream {
 public:
  __device__ __forceinline__ Stream(const Arguments& arguments, unsigned char* stages, const T* hidden, int length)
      : arguments_(arguments), stages_(stages), hidden_(hidden), length_(length) {
    for (int i = 0; i < arguments.stages - 1; ++i) copy_next(i);
  }

  // The block's vector [rows] times the next rows of query or value, summed over slices into `partial`.
  __device__ __forceinline__ void multiply_next(const float* vector, int rows, float* partial) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int row = 0; row < rows; row += fold_rows()) {
      const unsigned char* stage = next();
      if (fold_is_float()) {
        multiply_fold<float, C>(sum, vector + row, stage);
      } else {
        multiply_fold<T, C>(sum, vector + row, stage);
      }
    }
    reinterpret_cast<float4*>(partial)[threadIdx.x] = sum;
  }

  __device__ __forceinline__ const unsigned char* next() {
    wait_for_all_but(arguments_.stages - 2);
    __syncthreads();  // the chunk is there for every warp, and no warp still reads the stage that is filled next
    copy_next(read_stage_ == 0 ? arguments_.stages - 1 : read_stage_ - 1);
    const unsigned char* stage = stages_ + read_stage_ * Layout<C>::stage_bytes;
    if (++read_stage_ == arguments_.stages) read_stage_ = 0;
    return stage;
  }

 private:
  enum Part { TILE, QUERY, VALUE, END };

  __device__ __forceinline__ bool fold_is_float() const {
    return sizeof(T) == 4 || arguments_.weights.fold_dtype == DType::float32;
  }
  __device__ __forceinline__ int fold_rows() const { return fold_is_float() ? FOLD_ROWS<float, C> : FOLD_ROWS<T, C>; }

  __device__ __forceinline__ void copy_next(int index) {
    unsigned char* stage = stages_ + index * Layout<C>::stage_bytes;
    int chunks = arguments_.num_heads * (C / fold_rows());
    if (part_ == TILE) {
      chunks = arguments_.chunks;
      copy_chunk<T, Layout<C>::tokens>(stage, hidden_ + static_cast<int64_t>(token_) * arguments_.hidden_size,
                                       min(length_ - token_, Layout<C>::tokens), arguments_.hidden_size, chunk_);
      copy_chunk<T, C>(stage + Layout<C>::tokens * CHUNK_BYTES,
                       static_cast<const T*>(arguments_.weights.projection_weight), C, arguments_.hidden_size, chunk_);
    } else if (part_ != END) {
      const void* matrix = part_ == QUERY ? arguments_.weights.query : arguments_.weights.value;
      if (fold_is_float()) {
        copy_fold<float, C>(stage, matrix, chunk_ * FOLD_ROWS<float, C>);
      } else {
        copy_fold<T, C>(stage, matrix, chunk_ * FOLD_ROWS<T, C>);
      }
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
  Part part_ = TILE;  // of the next chunk to copy
  int token_ = 0;
  int chunk_ = 0;
};

}  // namespace fastbert::cuda
