// LayerNorm of a row x [H], with mean m and s = sum of (x - m)^2.
#pragma once
#include <cstdint>

#include "named.h"

namespace fastbert {

enum class LayerNormKind : int32_t {
  standard,  // (x - m) / sqrt(s / H + eps) weight + bias
  unbiased,  // (x - m) / (sqrt(s / (H - 1)) + eps) weight + bias, H >= 2
};

inline constexpr Named<LayerNormKind> kLayerNormNames[] = {{"standard", LayerNormKind::standard},
                                                           {"unbiased", LayerNormKind::unbiased}};
constexpr const auto& names_of(LayerNormKind) { return kLayerNormNames; }

struct LayerNorm {
  const float* weight;  // [H]
  const float* bias;    // [H]
  float eps;
  LayerNormKind kind;
};

}  // namespace fastbert
