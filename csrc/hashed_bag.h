// Exit zero: a linear classifier on the hashed tokens w_1 .. w_n of a text and its pairs of neighbours.
//
//   logits = bias + (sum_i table[bucket(w_i, 0)] + sum_i table[bucket(w_i, w_i+1 + 1)]) / sqrt(2 n - 1)
//
// summed in the order w_1, (w_1, w_2), w_2, .. w_n, in float32. A text without tokens has the logits NaN.
#pragma once
#include <cstdint>

#include "decision.h"

namespace fastbert {

struct HashedBag {
  const float* table;  // [buckets, N]
  const float* bias;   // [N]
  int64_t buckets;     // a power of 2, at most 2^31
  int64_t num_labels;
};

// Row of the table for a token, with `following` 0 for the token alone, else 1 + the id behind it.
constexpr uint32_t hashed_bucket(uint32_t token, uint32_t following, int64_t buckets) {
  uint32_t x = token * 0x9E3779B1u + following * 0x85EBCA77u;
  x = (x ^ (x >> 15)) * 0x2C1B3C6Du;
  x = (x ^ (x >> 12)) * 0x297A2D39u;
  x ^= x >> 15;
  return x & static_cast<uint32_t>(buckets - 1);
}

namespace cpu {
// ids [T], cu_seqlens [B + 1]. Any id has a bucket.
void hashed_bag(const int64_t* ids, const int32_t* cu_seqlens, int64_t batch, const HashedBag& bag,
                const Decision& decision, const DecisionOutputs& outputs);
}  // namespace cpu

}  // namespace fastbert
