// Compiled once per instruction set, with FASTBERT_ISA naming the namespace. Plain loops that the compiler vectorises;
// nothing here may call an inline function of a shared header, since the linker would keep one instruction set's copy
// of it for all.
#include <cstring>

#include "cpu/vector_kernels.h"

#define FASTBERT_STRINGIFY_(name) #name
#define FASTBERT_STRINGIFY(name) FASTBERT_STRINGIFY_(name)

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2High = 0.693145751953125f;  // exact in 15 bits, so that n * kLn2High is exact
constexpr float kLn2Low = 1.42860682030941723e-6f;
constexpr float kRound = 12582912.0f;  // 1.5 x 2^23: adding it rounds to the nearest integer, kept in the low bits

inline float power_of_two(float rounded) {  // 2^n, for rounded = n + kRound and n in [-126, 127]
  int32_t bits, bias;
  std::memcpy(&bits, &rounded, sizeof bits);
  std::memcpy(&bias, &kRound, sizeof bias);
  bits = (bits - bias + 127) << 23;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// e^r - 1 for |r| <= ln(2) / 2, to 1.5e-8 relative: the Taylor series to r^7.
inline float expm1_reduced(float r) {
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  return r + r * r * p;
}

// e^x for x <= 0, which is all a shifted softmax needs; NaN stays NaN, and below -87 the answer is 0.
inline float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float rounded = clamped * kLog2E + kRound;
  const float n = rounded - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  const float result = power_of_two(rounded) * (1.0f + expm1_reduced(r));
  return x < -87.0f ? 0.0f : result;
}

// tanh|x| = (e^2|x| - 1) / (e^2|x| + 1), with e^2|x| - 1 formed without cancellation: 2 ulp over the whole range.
inline float tanh_one(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  const float doubled = magnitude > 10.0f ? 20.0f : 2.0f * magnitude;  // tanh(10) rounds to 1
  const float rounded = doubled * kLog2E + kRound;
  const float n = rounded - kRound;
  const float r = (doubled - n * kLn2High) - n * kLn2Low;
  const float scale = power_of_two(rounded);
  const float expm1 = scale * expm1_reduced(r) + (scale - 1.0f);
  const float result = expm1 / (expm1 + 2.0f);
  return x < 0.0f ? -result : result;
}

inline void tanh_inplace(float* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) x[i] = tanh_one(x[i]);
}

inline float dot(const float* a, const float* b, int64_t count) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

inline void add_scaled(float* out, const float* x, float scale, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] += scale * x[i];
}

// out [columns] = bias + x [rows] matrix [rows, columns]
inline void vector_matrix(float* out, const float* x, const float* matrix, const float* bias, int64_t rows,
                          int64_t columns) {
  std::memcpy(out, bias, columns * sizeof(float));
  for (int64_t row = 0; row < rows; ++row) add_scaled(out, matrix + row * columns, x[row], columns);
}

// scores [n] become exp(scores - max), and their sum is returned; a NaN makes the sum NaN.
inline float exponentials(float* scores, int64_t n) {
  float largest = scores[0];
  for (int64_t j = 1; j < n; ++j) largest = scores[j] > largest ? scores[j] : largest;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    scores[j] = exp_nonpositive(scores[j] - largest);
    sum += scores[j];
  }
  return sum;
}

void exit_head_sample(float* projected, int64_t n, const ExitHeadWeights& weights, const ExitHeadShape& shape,
                      float* scratch, float* logits) {
  const int64_t narrow = shape.narrow_size, heads = shape.num_heads;
  float* query = scratch;                   // [h, C]
  float* pooled = query + heads * narrow;   // [h, C]
  float* scores = pooled + heads * narrow;  // [h, n]
  float* features = scores + heads * n;     // [C]

  tanh_inplace(projected, narrow);
  for (int64_t i = 0; i < heads; ++i)
    vector_matrix(query + i * narrow, projected, weights.query + i * narrow * narrow, weights.query_bias + i * narrow,
                  narrow, narrow);

  // A row is scored right after its tanh, while it is in the first-level cache.
  for (int64_t j = 0; j < n; ++j) {
    float* row = projected + j * narrow;
    if (j > 0) tanh_inplace(row, narrow);
    for (int64_t i = 0; i < heads; ++i) scores[i * n + j] = dot(query + i * narrow, row, narrow);
  }
  for (int64_t i = 0; i < heads; ++i) {
    float* weighted = pooled + i * narrow;
    std::memset(weighted, 0, narrow * sizeof(float));
    const float scale = 1.0f / exponentials(scores + i * n, n);
    for (int64_t j = 0; j < n; ++j) add_scaled(weighted, projected + j * narrow, scores[i * n + j] * scale, narrow);
  }
  vector_matrix(features, pooled, weights.value, weights.value_bias, heads * narrow, narrow);
  tanh_inplace(features, narrow);
  for (int64_t label = 0; label < shape.num_labels; ++label)
    logits[label] = weights.output_bias[label] + dot(features, weights.output_weight + label * narrow, narrow);
}

// With x = logit - max and S = sum exp(x): entropy = log S - sum(exp(x) x) / S, which needs no logarithm per class.
float normalised_entropy(const float* logits, int64_t count) {
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
  const float entropy = (__builtin_logf(sum) - weighted / sum) / __builtin_logf(static_cast<float>(count));
  return entropy < 0.0f ? 0.0f : entropy > 1.0f ? 1.0f : entropy;  // both comparisons leave NaN as it is
}

}  // namespace

extern const VectorKernels kernels;
const VectorKernels kernels{FASTBERT_STRINGIFY(FASTBERT_ISA), exit_head_sample, normalised_entropy};

}  // namespace fastbert::cpu::FASTBERT_ISA
