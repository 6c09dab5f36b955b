// Softmax of a sample's logits, reduced to one number.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

struct SoftmaxSums {
  float sum;       // S = sum exp(x), x = logit - max
  float weighted;  // sum exp(x) x
};

inline SoftmaxSums softmax_sums(const float* logits, int64_t count) {
  float largest = logits[0];
  for (int64_t i = 1; i < count; ++i) largest = logits[i] > largest ? logits[i] : largest;
  float sum = 0.0f, weighted = 0.0f;
#pragma omp simd reduction(+ : sum, weighted)
  for (int64_t i = 0; i < count; ++i) {
    const float shifted = logits[i] - largest;
    const float exponential = exp_nonpositive(shifted);
    sum += exponential;
    weighted += exponential == 0.0f ? 0.0f : exponential * shifted;  // 0 log 0 = 0
  }
  return {sum, weighted};
}

}  // namespace

// entropy = log S - sum(exp(x) x) / S, which needs no logarithm per class.
float normalised_entropy(const float* logits, int64_t count) {
  const SoftmaxSums sums = softmax_sums(logits, count);
  const float entropy =
      (__builtin_logf(sums.sum) - sums.weighted / sums.sum) / __builtin_logf(static_cast<float>(count));
  return entropy < 0.0f ? 0.0f : entropy > 1.0f ? 1.0f : entropy;  // both comparisons leave NaN as it is
}

float largest_probability(const float* logits, int64_t count) { return 1.0f / softmax_sums(logits, count).sum; }

}  // namespace fastbert::cpu::FASTBERT_ISA
