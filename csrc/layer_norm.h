// LayerNorm of a row x [H], with mean m and s = sum of (x - m)^2.
#pragma once
#include <cstdint>

namespace fastbert {

// The values are part of the binding's contract with fastbert_kernels/layer_norm.py.
enum class LayerNormKind : int32_t {
  standard = 0,  // (x - m) / sqrt(s / H + eps) weight + bias
  unbiased = 1,  // (x - m) / (sqrt(s / (H - 1)) + eps) weight + bias, H >= 2
};

struct LayerNorm {
  const float* weight;  // [H]
  const float* bias;    // [H]
  float eps;
  LayerNormKind kind;
};

}  // namespace fastbert
