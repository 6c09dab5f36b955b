// Token embeddings of the BERT family: LayerNorm(words[id] + positions[position] + segments[segment]), row by row.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "layer_norm.h"

namespace fastbert {

struct EmbeddingWeights {
  const float* words;      // [V, H]
  const float* positions;  // [P, H]
  const float* segments;   // [S, H]
  LayerNorm norm;
  int64_t hidden_size;
};

struct TokenIds {
  const int64_t* words;      // [T]
  const int64_t* positions;  // [T]
  const int64_t* segments;   // [T], or nullptr: all 0
  int64_t count;             // T
};

namespace cpu {
// out [T, H], float32 or bfloat16. The ids are in range.
void embed(const TokenIds& ids, const EmbeddingWeights& weights, DType dtype, void* out);
}  // namespace cpu

}  // namespace fastbert
