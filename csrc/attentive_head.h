// The attentive exit head on a packed batch, with folded weights (docs/architecture.md). For each sample X [n, H]:
//
//   Z      = f(X projection_weight^T + projection_bias)                         [n, C]   f = narrow_activation
//   u_i    = Z_0 query_i + query_bias_i                                         [C]      i = 1..h
//   c_i    = softmax_j(u_i . Z_j) Z                                             [C]
//   t      = g([c_1 .. c_h] value + value_bias)                                 [C]      g = mlp_activation
//   logits = t output_weight^T + output_bias                                    [N]
//
// and the decision of decision.h. With f = identity the projection of every token is not needed: u_i . Z_j is
// (u_i projection_weight) . x_j and a term that is the same for every j, and c_i is the projection of
// sum_j p_ij x_j.
#pragma once
#include <cstdint>

#include "activation.h"
#include "decision.h"
#include "dtype.h"
#include "packed_matrix.h"

namespace fastbert {

struct AttentiveHeadWeights {
  const void* projection_weight;  // [C, H], dtype of hidden
  const float* projection_bias;   // [C]
  const void* query;              // [h, C, C], fold_dtype; the 1 / sqrt(d) of attention folded in
  const float* query_bias;        // [h, C]
  const void* value;              // [h * C, C], fold_dtype
  const float* value_bias;        // [C]
  const float* output_weight;     // [N, C]
  const float* output_bias;       // [N]
  DType fold_dtype;               // float32, or the dtype of hidden
  Activation narrow_activation;   // identity or tanh
  Activation mlp_activation;      // identity or tanh
};

struct AttentiveHeadShape {
  int64_t tokens;       // T
  int64_t batch;        // B
  int64_t hidden_size;  // H
  int64_t narrow_size;  // C
  int64_t num_heads;    // h
  int64_t num_labels;   // N
};

namespace cpu {
// For narrow_activation = tanh. `hidden` [T, H] is float32, bfloat16 or float16; `projection` holds projection_weight and
// projection_bias, which are not read, in the operand of such rows (product_operand) or in float32. fold_dtype is float32.
void attentive_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const PackedMatrix& projection,
                    const AttentiveHeadWeights& weights, const AttentiveHeadShape& shape, const Decision& decision,
                    const DecisionOutputs& outputs);
}  // namespace cpu

namespace cuda {
// Returns nullptr when this shape can run, else a sentence that says why not.
const char* attentive_head_unsupported(const AttentiveHeadShape& shape, const AttentiveHeadWeights& weights,
                                       DType dtype);

// One launch on `stream` (a cudaStream_t) of device `device`; returns a cudaError_t (0 on success). `hidden` [T, H] and
// projection_weight are `dtype` (float32, bfloat16 or float16); these, query and value are 16-byte aligned. A sample
// whose bounds leave the T rows has no tokens.
int attentive_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const AttentiveHeadWeights& weights,
                   const AttentiveHeadShape& shape, const Decision& decision, const DecisionOutputs& outputs,
                   int device, void* stream);
}  // namespace cuda

}  // namespace fastbert
