// Pooling of each sample's rows on a CPU: weighted by attention, or first, mean and max. Rows are read once (twice by
// attention, the second time from the cache); samples are shared out among threads.
#include <algorithm>
#include <limits>

#include "cpu/samples.h"
#include "cpu/kernels.h"
#include "exit_head.h"
#include "pooled_exit_head.h"

namespace fastbert::cpu {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const char* row_at(const void* hidden, int64_t row, int64_t width, DType dtype) {
  return static_cast<const char*>(hidden) + row * width * element_size(dtype);
}

}  // namespace

void attention_pooling(const void* hidden, DType dtype, const int32_t* cu_seqlens, const float* keys,
                       const ExitHeadShape& shape, float* contexts) {
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
  const Kernels& set = kernels();
  for_each_sample(cu_seqlens, batch, hidden_size, [&](int64_t b, int64_t begin, int64_t n, float* scratch) {
    if (n > 0) {
      set.pool_sample(row_at(hidden, begin, hidden_size, dtype), dtype, n, hidden_size, pooling, scratch,
                      pooled + b * hidden_size);
    } else {
      std::fill_n(pooled + b * hidden_size, hidden_size, kNaN);
    }
  });
}

}  // namespace fastbert::cpu
