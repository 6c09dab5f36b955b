// The pooled exit head on a CPU: a thread takes some samples at a time from their rows to the decision.
#include "pooled_exit_head.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpu/decision.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/pooling.h"
#include "cpu/threads.h"

namespace fastbert::cpu {
namespace {

// Samples that share the reads of a pooled head's weights; what is pooled of more would not stay in the cache beside them.
constexpr int64_t kGroupSamples = 48;

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
