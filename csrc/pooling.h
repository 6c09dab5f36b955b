// One row of each sample X [n, H]: the first, the mean, or the largest value per column; and h rows weighted by attention.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "attentive_head.h"
#include "named.h"

namespace fastbert {

enum class Pooling : int32_t { first, mean, max };

inline constexpr Named<Pooling> kPoolingNames[] = {
    {"first", Pooling::first}, {"mean", Pooling::mean}, {"max", Pooling::max}};
constexpr const auto& names_of(Pooling) { return kPoolingNames; }

namespace cpu {
// x [B, H] in float32. A sample without tokens gets NaN.
void pool(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch, int64_t hidden_size,
          Pooling pooling, float* pooled);

// Attention pooling with narrow_activation = identity: contexts [B, h, H] = softmax_j(keys_i . x_j) X for given
// keys [B, h, H]. The rest of the head is matrix products over [B, ...], which the caller's library does.
void attention_pooling(const void* hidden, DType dtype, const int32_t* cu_seqlens, const float* keys,
                       const AttentiveHeadShape& shape, float* contexts);
}  // namespace cpu

}  // namespace fastbert
