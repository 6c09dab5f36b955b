// Pooling of each sample's rows on a CPU: weighted by attention, or first, mean and max. Rows are read once (twice by
// attention, the second time from the cache); samples are shared out among threads. And the pooled exit head, which takes
// some samples at a time from their rows to the decision.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "cpu/decision.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/samples.h"
#include "cpu/threads.h"
#include "exit_head.h"
#include "pooled_exit_head.h"

namespace fastbert::cpu {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Samples that share the reads of a pooled head's weights; what is pooled of more would not stay in the cache beside them.
constexpr int64_t kGroupSamples = 48;

const char* row_at(const void* hidden, int64_t row, int64_t width, DType dtype) {
  return static_cast<const char*>(hidden) + row * width * element_size(dtype);
}

// x [H] of the sample with the rows begin .. begin + n; `scratch` holds H floats.
void pool_rows(const void* hidden, DType dtype, int64_t begin, int64_t n, int64_t width, Pooling pooling,
               float* scratch, float* pooled) {
  if (n > 0) {
    kernels().pool_sample(row_at(hidden, begin, width, dtype), dtype, n, width, pooling, scratch, pooled);
  } else {
    std::fill_n(pooled, width, kNaN);
  }
}

// out [count, N] = f(features weight^T + bias)
void multiply(const PackedMatrix& layer, const float* features, int64_t count, Activation activation, float* out) {
  ProductOutput output{out, DType::float32, layer.outputs};
  if (activation == Activation::relu) output.epilogue = Epilogue::relu;
  if (activation == Activation::gelu) output.epilogue = Epilogue::gelu;
  const int64_t width = kernels().panel_width;
  kernels().product(layer, {features, DType::float32, layer.depth, nullptr, nullptr}, output, {0, count},
                    {0, (layer.outputs + width - 1) / width});
  if (activation == Activation::tanh)
    for (int64_t i = 0; i < count * layer.outputs; ++i) out[i] = std::tanh(out[i]);
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
  for_each_sample(cu_seqlens, batch, hidden_size, [&](int64_t b, int64_t begin, int64_t n, float* scratch) {
    pool_rows(hidden, dtype, begin, n, hidden_size, pooling, scratch, pooled + b * hidden_size);
  });
}

void pooled_exit_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch,
                      const PackedPooledHead& head, const Decision& decision, const DecisionOutputs& outputs) {
  const int64_t width = head.layers.front().depth, num_labels = head.layers.back().outputs;
  int64_t widest = width;
  for (const PackedMatrix& layer : head.layers) widest = std::max(widest, layer.outputs);
  // Every thread gets two groups at least, so that the longest samples do not decide alone.
  const int64_t size = std::clamp<int64_t>(batch / (2 * available_threads()), 1, kGroupSamples);
  parallel_for_blocks(batch, size, [&](int64_t begin, int64_t end) {
    const AlignedArray<float> space = aligned_array<float>(2 * size * widest + width);
    float *features = space.get(), *next = features + size * widest, *scratch = next + size * widest;
    for (int64_t b = begin; b < end; ++b)
      pool_rows(hidden, dtype, cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b], width, head.pooling, scratch,
                features + (b - begin) * width);
    for (size_t k = 0; k + 1 < head.layers.size(); ++k) {
      multiply(head.layers[k], features, end - begin, head.activation, next);
      std::swap(features, next);
    }
    multiply(head.layers.back(), features, end - begin, Activation::identity, outputs.logits + begin * num_labels);
    for (int64_t b = begin; b < end; ++b) decide_sample(b, num_labels, decision, outputs);
  });
}

}  // namespace fastbert::cpu
