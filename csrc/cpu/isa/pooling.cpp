// Pooling of one sample's rows: weighted by attention, or first, mean and max.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

// Row `index` of [n, width] as float32: where it lies, or converted into `buffer`.
inline const float* row_at(const void* rows, DType dtype, int64_t index, int64_t width, float* buffer) {
  return as_float(element_at(rows, dtype, index * width), dtype, width, buffer);
}

}  // namespace

void attention_pooling_sample(const void* rows, DType dtype, int64_t n, const float* keys,
                              const AttentiveHeadShape& shape, float* scratch, float* contexts) {
  const int64_t width = shape.hidden_size, heads = shape.num_heads;
  float* scores = scratch;             // [h, n]
  float* buffer = scores + heads * n;  // [H]
  for (int64_t j = 0; j < n; ++j) {
    const float* row = row_at(rows, dtype, j, width, buffer);
    for (int64_t i = 0; i < heads; ++i) scores[i * n + j] = dot(keys + i * width, row, width);
  }
  for (int64_t i = 0; i < heads; ++i) {
    const float scale = 1.0f / exponentials(scores + i * n, n);
    for (int64_t j = 0; j < n; ++j) scores[i * n + j] *= scale;
  }
  std::memset(contexts, 0, heads * width * sizeof(float));
  for (int64_t j = 0; j < n; ++j) {
    const float* row = row_at(rows, dtype, j, width, buffer);
    for (int64_t i = 0; i < heads; ++i) add_scaled(contexts + i * width, row, scores[i * n + j], width);
  }
}

void pool_sample(const void* rows, DType dtype, int64_t n, int64_t width, Pooling pooling, float* scratch,
                 float* pooled) {
  std::memcpy(pooled, row_at(rows, dtype, 0, width, scratch), width * sizeof(float));
  if (pooling == Pooling::first) return;
  for (int64_t j = 1; j < n; ++j) {
    const float* row = row_at(rows, dtype, j, width, scratch);
    if (pooling == Pooling::mean) {
      add_scaled(pooled, row, 1.0f, width);
    } else {
#pragma omp simd
      for (int64_t k = 0; k < width; ++k)  // a NaN takes the place of any number, and none takes its place
        pooled[k] = row[k] > pooled[k] || row[k] != row[k] ? row[k] : pooled[k];
    }
  }
  if (pooling == Pooling::mean) {
    const float scale = 1.0f / static_cast<float>(n);
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) pooled[k] *= scale;
  }
}

}  // namespace fastbert::cpu::FASTBERT_ISA
