// The attentive exit head of some samples behind the projection.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

struct HeadScratch {
  float* query;     // [h, C] u_i
  float* pooled;    // [h, C] c_i
  float* scores;    // [h, n]
  float* features;  // [C] t
};

inline HeadScratch head_scratch(const HeadSample& sample, int64_t heads, int64_t narrow) {
  float* query = sample.scratch;
  float* pooled = query + heads * narrow;
  float* scores = pooled + heads * narrow;
  return {query, pooled, scores, scores + heads * sample.n};
}

// Scores, softmax and weighted sums of one sample whose u_i are there.
inline void pool_by_attention(const HeadSample& sample, int64_t stride, int64_t heads, int64_t narrow) {
  const HeadScratch scratch = head_scratch(sample, heads, narrow);
  const int64_t n = sample.n;
  // A row is scored right after its tanh, while it is in the first-level cache.
  for (int64_t j = 0; j < n; ++j) {
    float* zed = sample.zed + j * stride;
    if (j > 0) tanh_inplace(zed, narrow);
    for (int64_t i = 0; i < heads; ++i) scratch.scores[i * n + j] = dot(scratch.query + i * narrow, zed, narrow);
  }
  std::memset(scratch.pooled, 0, heads * narrow * sizeof(float));
  for (int64_t i = 0; i < heads; ++i) {
    float* scores = scratch.scores + i * n;
    const float scale = 1.0f / exponentials(scores, n);
    for (int64_t j = 0; j < n; ++j)
      add_scaled(scratch.pooled + i * narrow, sample.zed + j * stride, scores[j] * scale, narrow);
  }
}

}  // namespace

void attentive_head_samples(const HeadSample* samples, int64_t count, int64_t stride,
                            const AttentiveHeadWeights& weights, const AttentiveHeadShape& shape) {
  const int64_t narrow = shape.narrow_size, heads = shape.num_heads;
  const auto* query_weight = static_cast<const float*>(weights.query);
  const auto* value_weight = static_cast<const float*>(weights.value);
  for (int64_t s = 0; s < count; ++s) {
    tanh_inplace(samples[s].zed, narrow);
    std::memcpy(head_scratch(samples[s], heads, narrow).query, weights.query_bias, heads * narrow * sizeof(float));
  }
  // Row by row of a matrix: it is in the first-level cache when the second sample wants it.
  for (int64_t i = 0; i < heads; ++i)
    for (int64_t row = 0; row < narrow; ++row)
      for (int64_t s = 0; s < count; ++s)
        add_scaled(head_scratch(samples[s], heads, narrow).query + i * narrow,
                   query_weight + (i * narrow + row) * narrow, samples[s].zed[row], narrow);

  for (int64_t s = 0; s < count; ++s) {
    pool_by_attention(samples[s], stride, heads, narrow);
    std::memcpy(head_scratch(samples[s], heads, narrow).features, weights.value_bias, narrow * sizeof(float));
  }
  for (int64_t row = 0; row < heads * narrow; ++row)
    for (int64_t s = 0; s < count; ++s) {
      const HeadScratch scratch = head_scratch(samples[s], heads, narrow);
      add_scaled(scratch.features, value_weight + row * narrow, scratch.pooled[row], narrow);
    }
  for (int64_t s = 0; s < count; ++s) {
    float* features = head_scratch(samples[s], heads, narrow).features;
    if (weights.mlp_activation == Activation::tanh) tanh_inplace(features, narrow);
    for (int64_t label = 0; label < shape.num_labels; ++label)
      samples[s].logits[label] =
          weights.output_bias[label] + dot(features, weights.output_weight + label * narrow, narrow);
  }
}

}  // namespace fastbert::cpu::FASTBERT_ISA
