// Pooling of each sample's rows on a CPU: weighted by attention, or first, mean and max. Rows are read once (twice by
// attention, the second time from the cache); samples are shared out among threads.
#include "cpu/pooling.h"

#include <algorithm>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/samples.h"

namespace fastbert::cpu {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const char* row_at(const void* hidden, int64_t row, int64_t width, DType dtype) {
  return static_cast<const char*>(hidden) + row * width * element_size(dtype);
}

}  // namespace

void pool_rows(const void* hidden, DType dtype, int64_t begin, int64_t n, int64_t width, Pooling pooling,
               float* scratch, float* pooled) {
  if (n > 0) {
    kernels().pool_sample(row_at(hidden, begin, width, dtype), dtype, n, width, pooling, scratch, pooled);
  } else {
    std::fill_n(pooled, width, kNaN);
  }
}

void attention_pooling(const void* hidden, DType dtype, const int32_t* cu_seqlens, const float* keys,
                       const AttentiveHeadShape& shape, float* contexts) {
  const Kernels& set = kernels();
  const int64_t scratch_size = attention_pooling_scratch(shape, longest_sample(cu_seqlens, shape.batch));
  const int64_t size = shape.num_heads * shape.hidden_size;
  for_each_sample(cu_seqlens, shape.batch, scratch_size, [&](int64_t b, int64_t begin, int64_t n, float* scratch) {
    if (n > 0) {
      set.attention_pooling_sample(row_at(hidden, begin, shape.hidden_size, dtype), dtype, n, keys + b * size, shape,
                                   scratch, contexts + b * size);
    } else {
      std::fill_n(contexts + b * size, size, kNaN);
    }
  });
}

void pool(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch, int64_t hidden_size,
          Pooling pooling, float* pooled) {
  for_each_sample(cu_seqlens, batch, hidden_size, [&](int64_t b, int64_t begin, int64_t n, float* scratch) {
    pool_rows(hidden, dtype, begin, n, hidden_size, pooling, scratch, pooled + b * hidden_size);
  });
}

}  // namespace fastbert::cpu
