// Elementwise functions and small loops of the kernels in this folder. Every source here is compiled once per instruction
// set, with FASTBERT_ISA naming the namespace. Plain loops that the compiler vectorises; inline functions have to live in
// the namespace of their instruction set, since the linker keeps one copy of each name for all.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "dtype.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4;

typedef float Vector __attribute__((vector_size(kVectorBytes)));

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2High = 0.693145751953125f;  // exact in 15 bits, so that n * kLn2High is exact
constexpr float kLn2Low = 1.42860682030941723e-6f;
constexpr float kRound = 12582912.0f;  // 1.5 x 2^23: adding it rounds to the nearest integer, kept in the low bits

// These take a float or a Vector.
inline int32_t as_bits(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

typedef int32_t IntVector __attribute__((vector_size(kVectorBytes)));

inline IntVector as_bits(Vector value) { return reinterpret_cast<IntVector>(value); }

template <class T>
inline T power_of_two(T rounded) {  // 2^n, for rounded = n + kRound and n in [-126, 127]
  const auto bits = (as_bits(rounded) - as_bits(kRound) + 127) << 23;
  T result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// The polynomial in x with these coefficients, that of the highest power first.
template <class T, class... Floats>
inline T polynomial(T x, float highest, Floats... rest) {
  T sum = T{} + highest;
  ((sum = sum * x + rest), ...);
  return sum;
}

// e^r - 1 for |r| <= ln(2) / 2, to 1.5e-8 relative: the Taylor series to r^7.
template <class T>
inline T expm1_reduced(T r) {
  return r + r * r * polynomial(r, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f);
}

// e^x for x <= 0, which is all a shifted softmax needs; NaN stays NaN, and below -87 the answer is 0.
template <class T>
inline T exp_nonpositive(T x) {
  const T clamped = x < -87.0f ? -87.0f : x;
  const T rounded = clamped * kLog2E + kRound;
  const T n = rounded - kRound;
  const T r = (clamped - n * kLn2High) - n * kLn2Low;
  const T result = power_of_two(rounded) * (1.0f + expm1_reduced(r));
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

// x Phi(x), with erf(x / sqrt(2)) = x P(x^2) to 6e-8 for |x| <= 5, where it reaches 1: the minimax fit of degree 13, in
// t = 2 x^2 / 25 - 1 so that its terms do not cancel.
inline float gelu_one(float x) {
  // Each comparison is written as the processor's minimum and maximum have it, with which NaN stays NaN.
  const float capped = 5.0f < x ? 5.0f : x;
  const float clamped = -5.0f > capped ? -5.0f : capped;
  const float t = clamped * clamped * 0.08f - 1.0f;
  const float p = polynomial(t, -0.00050679679f, 0.00142101555f, -0.00168149683f, 0.00288596575f, -0.00717488407f,
                             0.0133931779f, -0.0213229631f, 0.0325374529f, -0.0468083232f, 0.0629399194f,
                             -0.0808541263f, 0.103036879f, -0.140593572f, 0.282727625f);
  const float erf = clamped * p;
  const float below = 1.0f < erf ? 1.0f : erf;
  return 0.5f * x * (1.0f + (-1.0f > below ? -1.0f : below));
}

inline void tanh_inplace(float* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) x[i] = tanh_one(x[i]);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
inline __m256i first_lanes(int64_t count) {  // all bits set in them
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

inline float sum_of_lanes(Vector vector) {
  float lanes[kLanes];
  std::memcpy(lanes, &vector, sizeof lanes);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// Written out, since compilers add the lanes of a reduction up one after another, which for the width of a head costs more
// than the products.
inline float dot(const float* a, const float* b, int64_t count) {
  constexpr int kSums = 4;  // as many as hide the latency of an addition
  Vector sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes <= count; i += kSums * kLanes)
    for (int j = 0; j < kSums; ++j) {
      Vector x, y;
      std::memcpy(&x, a + i + j * kLanes, sizeof x);
      std::memcpy(&y, b + i + j * kLanes, sizeof y);
      sums[j] += x * y;
    }
  float rest = 0.0f;
  for (; i < count; ++i) rest += a[i] * b[i];
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

inline void add_scaled(float* out, const float* x, float scale, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] += scale * x[i];
}

inline float largest_of_lanes(Vector vector) {
  float lanes[kLanes];
  std::memcpy(lanes, &vector, sizeof lanes);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i + width] > lanes[i] ? lanes[i + width] : lanes[i];
  return lanes[0];
}

// The `count` < kLanes values at `from`, and `rest` in the other lanes. Nothing behind them is read, and no library is called
// for a few bytes.
inline Vector load_first(const float* from, int64_t count, float rest) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), static_cast<__mmask16>((1u << count) - 1), from);
#elif defined(__AVX2__)
  const __m256i mask = first_lanes(count);
  return _mm256_blendv_ps(_mm256_set1_ps(rest), _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
#else
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < count ? from[i] : rest;
  Vector values;
  std::memcpy(&values, lanes, sizeof values);
  return values;
#endif
}

// The first `count` < kLanes lanes.
inline void store_first(float* to, int64_t count, Vector values) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), values);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(to, first_lanes(count), values);
#else
  for (int64_t i = 0; i < count; ++i) to[i] = values[i];
#endif
}

// scores [n] become exp(scale (scores - max)), and their sum is returned; a NaN makes the sum NaN.
//
// In whole vectors, the last of them filled up: texts have few tokens, and one value at a time would take longer than all
// the others.
inline float exponentials(float* scores, int64_t n, float scale = 1.0f) {
  const int64_t whole = n / kLanes * kLanes, rest = n - whole;
  const Vector tail = load_first(scores + whole, rest, -__builtin_inff());
  Vector tops = tail;
  for (int64_t j = 0; j < whole; j += kLanes) {
    Vector x;
    std::memcpy(&x, scores + j, sizeof x);
    tops = x > tops ? x : tops;
  }
  const float largest = largest_of_lanes(tops);

  Vector sums = {};
  for (int64_t j = 0; j < whole; j += kLanes) {
    Vector x;
    std::memcpy(&x, scores + j, sizeof x);
    x = exp_nonpositive((x - largest) * scale);
    sums += x;
    std::memcpy(scores + j, &x, sizeof x);
  }
  const Vector last = exp_nonpositive((tail - largest) * scale);
  store_first(scores + whole, rest, last);
  return sum_of_lanes(sums + last);
}

inline float from_bfloat16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

inline uint16_t to_bfloat16(float value) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(value == value ? rounded : (word >> 16) | 0x40);
}

// `count` elements as float32: where they lie, or converted into `buffer`.
inline const float* as_float(const void* values, DType dtype, int64_t count, float* buffer) {
  if (dtype == DType::float32) return static_cast<const float*>(values);
  const auto* bits = static_cast<const uint16_t*>(values);
  if (dtype == DType::bfloat16) {
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) buffer[k] = from_bfloat16(bits[k]);
  } else {
    for (int64_t k = 0; k < count; ++k) {
      _Float16 half;
      std::memcpy(&half, bits + k, sizeof half);
      buffer[k] = static_cast<float>(half);
    }
  }
  return buffer;
}

// Of rows in float32 or 16 bits; a shared inline function (dtype.h) may not be called from here.
inline int64_t element_bytes(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// The element of the dtype at `index` of `values`.
inline const void* element_at(const void* values, DType dtype, int64_t index) {
  return static_cast<const char*>(values) + index * element_bytes(dtype);
}

// Brings some bytes into the cache, to be read or written a while later.
template <int write>
inline void prefetch(const void* memory, int64_t bytes) {
  for (int64_t offset = 0; offset < bytes; offset += 64)
    __builtin_prefetch(static_cast<const char*>(memory) + offset, write);
}

// Values into float32 or bfloat16 memory.
inline void store_as(void* out, DType dtype, const float* values, int64_t count) {
  if (dtype == DType::float32) {
    std::memcpy(out, values, count * sizeof(float));
    return;
  }
  auto* bits = static_cast<uint16_t*>(out);
  int64_t k = 0;
#if defined(__AVX512BF16__)
  for (; k + 16 <= count; k += 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values + k));
    std::memcpy(bits + k, &rounded, sizeof rounded);
  }
#endif
#pragma omp simd
  for (int64_t i = k; i < count; ++i) bits[i] = to_bfloat16(values[i]);
}

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
