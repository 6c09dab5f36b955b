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

// Row `index` of [n, width] as float32: where it lies, or converted into `buffer`.
inline const float* float_row(const void* rows, DType dtype, int64_t index, int64_t width, float* buffer) {
  if (dtype == DType::float32) return static_cast<const float*>(rows) + index * width;
  const auto* bits = static_cast<const uint16_t*>(rows) + index * width;
  if (dtype == DType::bfloat16) {
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) {
      const uint32_t word = static_cast<uint32_t>(bits[k]) << 16;
      std::memcpy(buffer + k, &word, sizeof word);
    }
  } else {
    for (int64_t k = 0; k < width; ++k) {
      _Float16 half;
      std::memcpy(&half, bits + k, sizeof half);
      buffer[k] = static_cast<float>(half);
    }
  }
  return buffer;
}

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

// Z of one row, from its projection.
inline float* activate_row(const HeadSample& sample, DType dtype, int64_t row, int64_t narrow) {
  float* zed = sample.zed + row * narrow;
  float_row(sample.projected, dtype, row, narrow, zed);  // in place for float32, which needs no copy
  tanh_inplace(zed, narrow);
  return zed;
}

// Scores, softmax and weighted sums of one sample whose u_i are there.
inline void pool_by_attention(const HeadSample& sample, DType dtype, int64_t heads, int64_t narrow) {
  const HeadScratch scratch = head_scratch(sample, heads, narrow);
  const int64_t n = sample.n;
  // A row is scored right after its tanh, while it is in the first-level cache.
  for (int64_t j = 0; j < n; ++j) {
    const float* zed = j > 0 ? activate_row(sample, dtype, j, narrow) : sample.zed;
    for (int64_t i = 0; i < heads; ++i) scratch.scores[i * n + j] = dot(scratch.query + i * narrow, zed, narrow);
  }
  std::memset(scratch.pooled, 0, heads * narrow * sizeof(float));
  for (int64_t i = 0; i < heads; ++i) {
    float* scores = scratch.scores + i * n;
    const float scale = 1.0f / exponentials(scores, n);
    for (int64_t j = 0; j < n; ++j)
      add_scaled(scratch.pooled + i * narrow, sample.zed + j * narrow, scores[j] * scale, narrow);
  }
}

void exit_head_samples(const HeadSample* samples, int64_t count, DType projected_dtype, const ExitHeadWeights& weights,
                       const ExitHeadShape& shape) {
  const int64_t narrow = shape.narrow_size, heads = shape.num_heads;
  const auto* query_weight = static_cast<const float*>(weights.query);
  const auto* value_weight = static_cast<const float*>(weights.value);
  for (int64_t s = 0; s < count; ++s) {
    activate_row(samples[s], projected_dtype, 0, narrow);
    std::memcpy(head_scratch(samples[s], heads, narrow).query, weights.query_bias, heads * narrow * sizeof(float));
  }
  // Row by row of a matrix: it is in the first-level cache when the second sample wants it.
  for (int64_t i = 0; i < heads; ++i)
    for (int64_t row = 0; row < narrow; ++row)
      for (int64_t s = 0; s < count; ++s)
        add_scaled(head_scratch(samples[s], heads, narrow).query + i * narrow,
                   query_weight + (i * narrow + row) * narrow, samples[s].zed[row], narrow);

  for (int64_t s = 0; s < count; ++s) {
    pool_by_attention(samples[s], projected_dtype, heads, narrow);
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

void attention_pooling_sample(const void* rows, DType dtype, int64_t n, const float* keys, const ExitHeadShape& shape,
                              float* scratch, float* contexts) {
  const int64_t width = shape.hidden_size, heads = shape.num_heads;
  float* scores = scratch;             // [h, n]
  float* buffer = scores + heads * n;  // [H]
  for (int64_t j = 0; j < n; ++j) {
    const float* row = float_row(rows, dtype, j, width, buffer);
    for (int64_t i = 0; i < heads; ++i) scores[i * n + j] = dot(keys + i * width, row, width);
  }
  for (int64_t i = 0; i < heads; ++i) {
    const float scale = 1.0f / exponentials(scores + i * n, n);
    for (int64_t j = 0; j < n; ++j) scores[i * n + j] *= scale;
  }
  std::memset(contexts, 0, heads * width * sizeof(float));
  for (int64_t j = 0; j < n; ++j) {
    const float* row = float_row(rows, dtype, j, width, buffer);
    for (int64_t i = 0; i < heads; ++i) add_scaled(contexts + i * width, row, scores[i * n + j], width);
  }
}

void pool_sample(const void* rows, DType dtype, int64_t n, int64_t width, Pooling pooling, float* scratch,
                 float* pooled) {
  std::memcpy(pooled, float_row(rows, dtype, 0, width, scratch), width * sizeof(float));
  if (pooling == Pooling::first) return;
  for (int64_t j = 1; j < n; ++j) {
    const float* row = float_row(rows, dtype, j, width, scratch);
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

// entropy = log S - sum(exp(x) x) / S, which needs no logarithm per class.
float normalised_entropy(const float* logits, int64_t count) {
  const SoftmaxSums sums = softmax_sums(logits, count);
  const float entropy =
      (__builtin_logf(sums.sum) - sums.weighted / sums.sum) / __builtin_logf(static_cast<float>(count));
  return entropy < 0.0f ? 0.0f : entropy > 1.0f ? 1.0f : entropy;  // both comparisons leave NaN as it is
}

float largest_probability(const float* logits, int64_t count) { return 1.0f / softmax_sums(logits, count).sum; }

}  // namespace

extern const VectorKernels kernels;
const VectorKernels kernels{FASTBERT_STRINGIFY(FASTBERT_ISA),
                            exit_head_samples,
                            attention_pooling_sample,
                            pool_sample,
                            normalised_entropy,
                            largest_probability};

}  // namespace fastbert::cpu::FASTBERT_ISA
