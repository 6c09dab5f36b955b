// The pooled exit head on a packed batch. For each sample X [n, H]:
//
//   x      = the first row, the mean of the rows, or their largest value per column                     [H]
//   x      = f(x weight_k^T + bias_k)    for every layer but the last, f = activation
//   logits = x weight_last^T + bias_last                                                                [N]
//
// and the decision of decision.h.
#pragma once
#include <cstdint>
#include <vector>

#include "activation.h"
#include "decision.h"
#include "dtype.h"
#include "packed_matrix.h"
#include "pooling.h"

namespace fastbert {

constexpr int kMaxPooledLayers = 3;

struct PooledHeadWeights {
  int32_t num_layers;                    // 1..3
  const void* weight[kMaxPooledLayers];  // [size[k + 1], size[k]], dtype of hidden
  const float* bias[kMaxPooledLayers];   // [size[k + 1]]
  int64_t size[kMaxPooledLayers + 1];    // H, widths of the layers between, N
  Pooling pooling;
  Activation activation;
};

// The head with its layers packed for float32 rows.
struct PackedPooledHead {
  std::vector<PackedMatrix> layers;  // 1..3
  Pooling pooling;
  Activation activation;
};

namespace cpu {
void pooled_exit_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch,
                      const PackedPooledHead& head, const Decision& decision, const DecisionOutputs& outputs);
}  // namespace cpu

namespace cuda {
// Returns nullptr when this can run, else a sentence that says why not.
const char* pooled_exit_head_unsupported(const PooledHeadWeights& weights, DType dtype);

// One launch on `stream` (a cudaStream_t) of device `device`; returns a cudaError_t (0 on success). `hidden` [T, H] and
// the weights are `dtype` (float32, bfloat16 or float16) and 16-byte aligned. A sample whose bounds leave the T rows has
// no tokens.
int pooled_exit_head(const void* hidden, DType dtype, int64_t tokens, const int32_t* cu_seqlens, int64_t batch,
                     const PooledHeadWeights& weights, const Decision& decision, const DecisionOutputs& outputs,
                     int device, void* stream);
}  // namespace cuda

}  // namespace fastbert
