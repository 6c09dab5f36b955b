// The inner kernels that profit from wide vectors. They are compiled once per instruction set (vector_kernels_isa.cpp)
// and chosen once, at first use, by what the processor has.
#pragma once
#include <cstdint>

#include "exit_head.h"

namespace fastbert::cpu {

struct VectorKernels {
  const char* name;

  // The exit head of one sample with n >= 1 tokens: `projected` [n, C] becomes Z, `logits` [N] is written.
  // `scratch` holds exit_head_scratch(shape, n) floats.
  void (*exit_head_sample)(float* projected, int64_t n, const ExitHeadWeights& weights, const ExitHeadShape& shape,
                           float* scratch, float* logits);

  // Normalised entropy of softmax(logits [count]); count >= 2. NaN when any logit is NaN or +inf.
  float (*normalised_entropy)(const float* logits, int64_t count);
};

inline int64_t exit_head_scratch(const ExitHeadShape& shape, int64_t n) {
  return shape.num_heads * (2 * shape.narrow_size + n) + shape.narrow_size;
}

// The widest set this processor runs, or the one named by the environment variable FASTBERT_CPU_ISA (portable, avx2,
// avx512).
const VectorKernels& vector_kernels();

}  // namespace fastbert::cpu
