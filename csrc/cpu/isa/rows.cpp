// What is done to whole rows of activations.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"

namespace fastbert::cpu::FASTBERT_ISA {

void layer_norm_row(const float* values, const float* weight, const float* bias, float eps, int64_t count, DType dtype,
                    void* out) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < count; ++k) sum += values[k];
  const float mean = sum / static_cast<float>(count);
  float squares = 0.0f;  // around the mean: a difference of large sums would lose what is looked for
#pragma omp simd reduction(+ : squares)
  for (int64_t k = 0; k < count; ++k) squares += (values[k] - mean) * (values[k] - mean);
  const float scale = 1.0f / __builtin_sqrtf(squares / static_cast<float>(count) + eps);
  if (dtype == DType::float32) {
    auto* to = static_cast<float*>(out);
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) to[k] = (values[k] - mean) * scale * weight[k] + bias[k];
  } else {
    auto* to = static_cast<uint16_t*>(out);
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) to[k] = to_bfloat16((values[k] - mean) * scale * weight[k] + bias[k]);
  }
}

void quantise_row(const void* values, DType dtype, int64_t count, uint8_t* bytes, float* scale, int32_t* shift) {
  constexpr int64_t kPiece = 256;
  float buffer[kPiece];
  float low = 0.0f, high = 0.0f, poison = 0.0f;  // 0 has to be among the values that are met exactly
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t length = count - begin < kPiece ? count - begin : kPiece;
    const float* piece = as_float(element_at(values, dtype, begin), dtype, length, buffer);
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : poison)
    for (int64_t k = 0; k < length; ++k) {
      low = piece[k] < low ? piece[k] : low;
      high = piece[k] > high ? piece[k] : high;
      poison += 0.0f * piece[k];  // NaN for a NaN and for an infinity
    }
  }
  const float step = high > low ? (high - low) / 255.0f : 1.0f;
  const float inverse = 1.0f / step;
  const float zero = __builtin_rintf(-low * inverse);
  *scale = poison == 0.0f ? step : poison;
  *shift = static_cast<int32_t>(poison == 0.0f ? zero : 0.0f);
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t length = count - begin < kPiece ? count - begin : kPiece;
    const float* piece = as_float(element_at(values, dtype, begin), dtype, length, buffer);
#pragma omp simd
    for (int64_t k = 0; k < length; ++k) {
      const float level = piece[k] * inverse + (zero + 0.5f);  // never negative, so that truncation rounds
      const float bounded = level > 255.0f ? 255.0f : level > 0.0f ? level : 0.0f;
      bytes[begin + k] = static_cast<uint8_t>(static_cast<int32_t>(bounded));
    }
  }
  for (int64_t k = count; k % 4 != 0; ++k) bytes[k] = 0;
}

}  // namespace fastbert::cpu::FASTBERT_ISA
