// The inner kernels that profit from wide vectors. They are compiled once per instruction set (vector_kernels_isa.cpp)
// and chosen once, at first use, by what the processor has.
#pragma once
#include <cstdint>

#include "exit_head.h"
#include "pooled_exit_head.h"

namespace fastbert::cpu {

// One sample of the attentive exit head with n >= 1 tokens.
struct HeadSample {
  const void* projected;  // [n, C] before the activation
  float* zed;             // [n, C] where Z goes; may be `projected` itself when that is float32
  int64_t n;
  float* scratch;  // exit_head_scratch(shape, n) floats
  float* logits;   // [N]
};

struct VectorKernels {
  const char* name;

  // The attentive exit head of some samples, with narrow_activation = tanh. They share the reads of the folded matrices,
  // which for short samples are more than their own rows.
  void (*exit_head_samples)(const HeadSample* samples, int64_t count, DType projected_dtype,
                            const ExitHeadWeights& weights, const ExitHeadShape& shape);

  // contexts [h, H] = softmax_j(keys_i . x_j) X of one sample with n >= 1 rows X [n, H].
  // `scratch` holds attention_pooling_scratch(shape, n) floats.
  void (*attention_pooling_sample)(const void* rows, DType dtype, int64_t n, const float* keys,
                                   const ExitHeadShape& shape, float* scratch, float* contexts);

  // pooled [H] of one sample with n >= 1 rows [n, H]. `scratch` holds H floats.
  void (*pool_sample)(const void* rows, DType dtype, int64_t n, int64_t hidden_size, Pooling pooling, float* scratch,
                      float* pooled);

  // Of softmax(logits [count]), count >= 2; NaN when any logit is NaN or +inf.
  float (*normalised_entropy)(const float* logits, int64_t count);
  float (*largest_probability)(const float* logits, int64_t count);
};

inline int64_t exit_head_scratch(const ExitHeadShape& shape, int64_t n) {
  return shape.num_heads * (2 * shape.narrow_size + n) + shape.narrow_size;
}

inline int64_t attention_pooling_scratch(const ExitHeadShape& shape, int64_t n) {
  return shape.num_heads * n + shape.hidden_size;
}

// The widest set this processor runs, or the one named by the environment variable FASTBERT_CPU_ISA (portable, avx2,
// avx512).
const VectorKernels& vector_kernels();

}  // namespace fastbert::cpu
