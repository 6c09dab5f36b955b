// What is done to whole rows of activations.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"
#include "cpu/isa/operand.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

template <class Sum>
Sum mean_of(const float* values, int64_t count) {
  Sum sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < count; ++k) sum += values[k];
  return sum / static_cast<Sum>(count);
}

double squares_around(const float* values, double mean, int64_t count) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t k = 0; k < count; ++k) squares += (values[k] - mean) * (values[k] - mean);
  return squares;
}

}  // namespace

void add_three_rows(const float* a, const float* b, const float* c, int64_t count, float* out) {
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) out[k] = a[k] + b[k] + c[k];
}

void widen_row(const void* values, DType dtype, int64_t count, float* out) {
  const float* converted = as_float(values, dtype, count, out);
  if (converted != out) std::memcpy(out, converted, count * sizeof(float));
}

void layer_norm_row(const float* values, const LayerNorm& norm, int64_t count, DType dtype, void* out) {
  const float *weight = norm.weight, *bias = norm.bias;
  float mean, rest, scale;  // rest: what the rounded mean lacks, which counts where values differ by little
  if (norm.kind == LayerNormKind::standard) {
    const auto elements = static_cast<float>(count);
    mean = mean_of<float>(values, count);
    float differences = 0, squares = 0;
#pragma omp simd reduction(+ : differences, squares)
    for (int64_t k = 0; k < count; ++k) {
      differences += values[k] - mean;
      squares += (values[k] - mean) * (values[k] - mean);
    }
    rest = differences / elements;
    float variance = squares / elements;
    if (variance < __builtin_inff()) variance = variance > rest * rest ? variance - rest * rest : 0.0f;
    scale = 1.0f / __builtin_sqrtf(variance + norm.eps);
  } else {
    // In float64, as PyTorch has it: the mean of equal values is then their value, and a deviation of 1e-8, to which an
    // epsilon outside the root gives a weight of its own, is not made up; and squares of large values do not overflow.
    const double exact = mean_of<double>(values, count);
    const double squares = squares_around(values, exact, count);
    mean = static_cast<float>(exact);
    rest = static_cast<float>(exact - mean);
    scale = static_cast<float>(1.0 / (__builtin_sqrt(squares / static_cast<double>(count - 1)) + norm.eps));
  }
  if (dtype == DType::float32) {
    auto* to = static_cast<float*>(out);
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) to[k] = (values[k] - mean - rest) * scale * weight[k] + bias[k];
  } else {
    auto* to = static_cast<uint16_t*>(out);
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) to[k] = to_bfloat16((values[k] - mean - rest) * scale * weight[k] + bias[k]);
  }
}

int64_t quantised_row_bytes(int64_t count) {
  return round_up(count, Int8Format::kGroup) * static_cast<int64_t>(sizeof(Int8Format::Row));
}

void quantise_row(const void* values, DType dtype, int64_t count, void* row, float* scale, int32_t* shift) {
  auto* out = static_cast<Int8Format::Row*>(row);
  constexpr int64_t kPiece = 256;
  float buffer[kPiece];
  float low = 0.0f, high = 0.0f, poison = 0.0f;  // 0 has to be among the values that are met exactly
  Vector lows = {}, highs = {}, poisons = {};
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t length = count - begin < kPiece ? count - begin : kPiece;
    const float* piece = as_float(element_at(values, dtype, begin), dtype, length, buffer);
    int64_t k = 0;
    for (; k + kLanes <= length; k += kLanes) {
      Vector x;
      std::memcpy(&x, piece + k, sizeof x);
      lows = x < lows ? x : lows;
      highs = x > highs ? x : highs;
      poisons += 0.0f * x;  // NaN for a NaN and for an infinity
    }
    for (; k < length; ++k) {
      low = piece[k] < low ? piece[k] : low;
      high = piece[k] > high ? piece[k] : high;
      poison += 0.0f * piece[k];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    low = lows[lane] < low ? lows[lane] : low;
    high = highs[lane] > high ? highs[lane] : high;
  }
  poison += sum_of_lanes(poisons);
  const float step = high > low ? (high - low) / 255.0f : 1.0f;
  const float inverse = 1.0f / step;
  const float zero = poison == 0.0f ? __builtin_rintf(-low * inverse) : 0.0f;
  *scale = poison == 0.0f ? step : poison;
  *shift = static_cast<int32_t>(zero);
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t length = count - begin < kPiece ? count - begin : kPiece;
    const float* piece = as_float(element_at(values, dtype, begin), dtype, length, buffer);
    int32_t levels[kPiece];
#pragma omp simd
    for (int64_t k = 0; k < length; ++k) {
      const float level = piece[k] * inverse + (zero + 0.5f);  // truncated below; the minimum and maximum take NaN out
      const float capped = level < 255.0f ? level : 255.0f;
      levels[k] = static_cast<int32_t>(capped > 0.0f ? capped : 0.0f);
    }
#pragma omp simd
    for (int64_t k = 0; k < length; ++k) out[begin + k] = static_cast<Int8Format::Row>(levels[k]);
  }
  for (int64_t k = count; k < round_up(count, Int8Format::kGroup); ++k) out[k] = 0;
}

}  // namespace fastbert::cpu::FASTBERT_ISA
