// The exit head on a packed batch, with folded weights (docs/architecture.md). For each sample X [n, H]:
//
//   Z      = tanh(X projection_weight^T + projection_bias)                      [n, C]
//   u_i    = Z_0 query_i + query_bias_i                                         [C]      i = 1..h
//   c_i    = softmax_j(u_i . Z_j) Z                                             [C]
//   t      = tanh([c_1 .. c_h] value + value_bias)                              [C]
//   logits = t output_weight^T + output_bias                                    [N]
//   uncertainty = -sum_c p_c log p_c / log N,   p = softmax(logits)
//   keep   = !(uncertainty < speed)
//
// A sample without tokens gets NaN logits and NaN uncertainty. A NaN uncertainty never exits.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace fastbert {

struct ExitHeadWeights {
  const void* projection_weight;  // [C, H], dtype of hidden
  const float* projection_bias;   // [C]
  const float* query;             // [h, C, C], the 1 / sqrt(d) of attention folded in
  const float* query_bias;        // [h, C]
  const float* value;             // [h * C, C]
  const float* value_bias;        // [C]
  const float* output_weight;     // [N, C]
  const float* output_bias;       // [N]
};

struct ExitHeadShape {
  int64_t tokens;       // T
  int64_t batch;        // B
  int64_t hidden_size;  // H
  int64_t narrow_size;  // C
  int64_t num_heads;    // h
  int64_t num_labels;   // N
};

struct ExitHeadOutputs {
  float* logits;       // [B, N]
  float* uncertainty;  // [B]
  uint8_t* keep;       // [B]
};

namespace cpu {
// `projected` [T, C] is X projection_weight^T + projection_bias in float32, computed by the caller's matrix library; it
// is overwritten with Z. The projection weights of `weights` are not read.
void exit_head(float* projected, const int32_t* cu_seqlens, const float* speed, const ExitHeadWeights& weights,
               const ExitHeadShape& shape, const ExitHeadOutputs& outputs);
}  // namespace cpu

namespace cuda {
// Returns nullptr when this shape can run, else a sentence that says why not.
const char* exit_head_unsupported(const ExitHeadShape& shape, DType dtype);

// One launch on `stream` (a cudaStream_t) of device `device`; returns a cudaError_t (0 on success). `hidden` [T, H] and
// projection_weight are `dtype` (float32, bfloat16 or float16) and 16-byte aligned.
int exit_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const float* speed,
              const ExitHeadWeights& weights, const ExitHeadShape& shape, const ExitHeadOutputs& outputs, int device,
              void* stream);
}  // namespace cuda

}  // namespace fastbert
