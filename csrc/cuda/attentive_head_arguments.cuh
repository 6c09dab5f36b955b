// The arguments of both kernels of the attentive head, and the last step they share.
#pragma once
#include "../attentive_head.h"
#include "decision.cuh"
#include "device.cuh"
#include "device_limits.cuh"
#include "sample_rows.cuh"
#include "vector_matrix.cuh"

namespace fastbert::cuda {

constexpr int MAX_HEADS = WARPS;  // one warp runs the softmax of one head
constexpr int MAX_LABELS = 8192;
constexpr int LABELS_AT_ONCE = 4;  // whose weights a warp has on their way together
constexpr int MAX_STAGES = 6;
constexpr int RESERVED_SHARED_BYTES = 1024;  // by the system, in every block

struct Arguments {
  const void* hidden;
  const int32_t* cu_seqlens;
  AttentiveHeadWeights weights;
  Decision decision;
  DecisionOutputs outputs;
  int tokens;
  int hidden_size;
  int narrow_size;
  int chunks;  // of a tile
  int num_heads;
  int num_labels;
  int stages;
};

// As many stages as help, or 0 when not even two fit: three leave room for a second block on the multiprocessor, which
// is worth more than a deeper ring when there are more samples than multiprocessors.
inline int choose_stages(const DeviceLimits& limits, int64_t batch, int scratch_bytes, int stage_bytes) {
  const bool two_blocks = batch > limits.multiprocessors;
  int stages =
      ((two_blocks ? limits.multiprocessor / 2 - RESERVED_SHARED_BYTES : limits.block) - scratch_bytes) / stage_bytes;
  if (stages < 3) stages = (limits.block - scratch_bytes) / stage_bytes;
  if (stages < 2) return 0;
  return stages > MAX_STAGES ? MAX_STAGES : stages;
}

// t [C] -> logits -> decision. `logits` is shared memory; a barrier of the caller comes before. Output weights need not
// lie on 16 bytes, so a lane reads them one by one.
__device__ __forceinline__ void classify(const Arguments& arguments, const float* features, int narrow_size,
                                         float* logits, int sample) {
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  const int num_labels = arguments.num_labels;
  for (int base = warp * LABELS_AT_ONCE; base < num_labels; base += WARPS * LABELS_AT_ONCE) {
    float sum[LABELS_AT_ONCE] = {};
#pragma unroll 2
    for (int c = lane; c < narrow_size; c += WARP_SIZE) {
#pragma unroll
      for (int i = 0; i < LABELS_AT_ONCE; ++i) {
        const int label = min(base + i, num_labels - 1);
        sum[i] = fmaf(features[c], __ldg(arguments.weights.output_weight + label * narrow_size + c), sum[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < LABELS_AT_ONCE; ++i) {
      const float logit = warp_sum(sum[i]);
      const int label = base + i;
      if (lane == 0 && label < num_labels) logits[label] = logit + __ldg(arguments.weights.output_bias + label);
    }
  }
  __syncthreads();
  for (int label = threadIdx.x; label < num_labels; label += THREADS) {
    arguments.outputs.logits[static_cast<int64_t>(sample) * num_labels + label] = logits[label];
  }
  if (warp == 0) decide(arguments.decision, arguments.outputs, logits, num_labels, sample, lane);
}

}  // namespace fastbert::cuda
