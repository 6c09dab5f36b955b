// Encoder layers of the BERT family on a packed batch: every sample attends to its own rows only.
//
//   q, k, v = X qkv^T + bias
//   A       = LayerNorm(X + softmax((q k^T + p) / sqrt(d)) v attention_output^T + bias)  heads side by side, d = H / heads
//   Y       = LayerNorm(A + f(A intermediate^T + bias) output^T + bias)                  f = activation
//
// p is nothing, or what the distance of a key from its query adds to their score.
#pragma once
#include <cstdint>
#include <vector>

#include "activation.h"
#include "dtype.h"
#include "layer_norm.h"
#include "packed_matrix.h"

namespace fastbert {

struct EncoderLayerWeights {
  PackedMatrix qkv;               // [3H, H]
  PackedMatrix attention_output;  // [H, H]
  PackedMatrix intermediate;      // [I, H]
  PackedMatrix output;            // [H, I]
  DType attention_operand;        // what attention among bfloat16 rows is multiplied in, bfloat16 or float32
  const float* norms;             // [4, H]: weight and bias of the LayerNorm behind attention, then of the last one
  float layer_norm_eps;
  LayerNormKind layer_norm;
  int64_t num_attention_heads;
  Activation activation;  // gelu or relu
  // [heads, 2P - 1], samples having at most P tokens, or nullptr: p of a key d places behind its query is in column
  // P - 1 + d.
  const float* position_bias;
  int64_t positions;  // P, or 0
};

namespace cpu {
// One or more layers of one width after another, with no point between them at which samples wait for each other:
// Y [T, H] of the first is in rows[0], of the second in rows[1], and so on in turn. `hidden` [T, H], of `dtype` (float32
// or bfloat16) as they are, may be rows[1].
void encoder_layers(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch,
                    const std::vector<const EncoderLayerWeights*>& layers, void* const (&rows)[2]);
}  // namespace cpu

}  // namespace fastbert
