// The exit decision of one sample by one warp: csrc/decision.h has the formulas. Both heads end here, with the logits
// of a sample in shared memory, so a decision reads nothing but its Speed and its history from global memory.
//
// Each criterion is two passes over the logits, N / 32 values a lane. The entropy of the top k classes needs the k-th
// largest logit first: 32 counts over the logits, one for each of its bits, whatever k is. Only that criterion pays.
// The loops are not unrolled, since what that would keep in registers made the exit head's kernel spill.
#pragma once
#include "../decision.h"
#include "device.cuh"

namespace fastbert::cuda {

// Floats as unsigned numbers of the same order.
__device__ __forceinline__ unsigned order_of(float value) {
  const unsigned bits = __float_as_uint(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(unsigned order) {
  return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

// Terms of a softmax and of its entropy. With d = logit - maximum the entropy is log sum e^d - sum d e^d / sum e^d: two
// terms that are not negative, so nothing cancels.
struct EntropySums {
  float exponentials = 0;
  float weighted = 0;

  __device__ __forceinline__ void add(float difference, float copies = 1) {
    const float exponential = copies * expf(difference);
    exponentials += exponential;
    weighted += exponential > 0 ? difference * exponential : 0;  // 0 log 0 = 0
  }
  __device__ __forceinline__ void sum_warp() {
    exponentials = warp_sum(exponentials);
    weighted = warp_sum(weighted);
  }
  __device__ __forceinline__ float normalised_entropy(int classes) const {
    const float entropy = (logf(exponentials) - weighted / exponentials) / logf(static_cast<float>(classes));
    return entropy < 0 ? 0 : entropy > 1 ? 1 : entropy;  // fminf and fmaxf would turn a NaN into a number
  }
};

// One warp: the normalised entropy of the `k` largest of more than `k` logits.
__device__ __forceinline__ float compute_top_k_entropy(const float* logits, int num_labels, int k, float maximum,
                                                       int lane) {
  unsigned smallest = 0;  // ends as the largest number that k logits reach: the k-th of them
  for (unsigned bit = 1u << 31; bit != 0; bit >>= 1) {
    int reached = 0;
#pragma unroll 1
    for (int label = lane; label < num_labels; label += WARP_SIZE) {
      reached += order_of(logits[label]) >= (smallest | bit);
    }
    if (__reduce_add_sync(FULL_WARP, reached) >= k) smallest |= bit;
  }
  EntropySums sums;
  int above = 0;
#pragma unroll 1
  for (int label = lane; label < num_labels; label += WARP_SIZE) {
    if (order_of(logits[label]) <= smallest) continue;
    sums.add(logits[label] - maximum);
    ++above;
  }
  above = __reduce_add_sync(FULL_WARP, above);
  // Of logits equal to the smallest, as many as there is room for: which of them does not matter.
  if (lane == 0) sums.add(value_of(smallest) - maximum, static_cast<float>(k - above));
  sums.sum_warp();
  return sums.normalised_entropy(k);
}

// One warp: 1 - (p1 - p2) = 1 - (1 - e) / S, with e = exp(second largest logit - largest) and S the sum of the
// exponentials of all. The largest is that of `prediction`.
__device__ __forceinline__ float compute_margin(const float* logits, int num_labels, int prediction, float maximum,
                                                float exponentials, int lane) {
  float second = -INFINITY;
#pragma unroll 1
  for (int label = lane; label < num_labels; label += WARP_SIZE) {
    if (label != prediction && logits[label] > second) second = logits[label];
  }
  return 1 - (1 - expf(warp_max(second) - maximum)) / exponentials;
}

// One warp: the mean of the entropies of sigmoid(logit), over log 2.
__device__ __forceinline__ float compute_binary_entropy(const float* logits, int num_labels, int lane) {
  float sum = 0;
#pragma unroll 1
  for (int label = lane; label < num_labels; label += WARP_SIZE) {
    const float distance = fabsf(logits[label]);
    const float exponential = expf(-distance);
    sum += logf(1 + exponential) + distance * exponential / (1 + exponential);  // NaN for infinity times 0
  }
  const float entropy = warp_sum(sum) / (static_cast<float>(num_labels) * 0.693147181f);
  return entropy > 1 ? 1 : entropy;
}

// How far the score is from that of the head before, whose history is `before` or nullptr.
__device__ __forceinline__ float change_of_score(float score, const int32_t* before) {
  if (!(fabsf(score) < INFINITY)) return NAN;
  return before == nullptr || before[1] <= 0 ? INFINITY
                                             : fabsf(score - __uint_as_float(static_cast<unsigned>(before[0])));
}

// One warp: what the criterion compares with Speed. `prediction`, `maximum` and `sums` are those of all logits, `before`
// is the history of the head before, or nullptr.
__device__ __forceinline__ float measure_uncertainty(const ExitRule& rule, const float* logits, int num_labels,
                                                     int prediction, float maximum, const EntropySums& sums,
                                                     const int32_t* before, int lane) {
  switch (rule.criterion) {
    case Criterion::entropy:
    case Criterion::patience:
      return sums.normalised_entropy(num_labels);
    case Criterion::top_k_entropy:
      return rule.parameter < num_labels ? compute_top_k_entropy(logits, num_labels, rule.parameter, maximum, lane)
                                         : sums.normalised_entropy(num_labels);
    case Criterion::confidence:
      return 1 - 1 / sums.exponentials;
    case Criterion::margin:
      return compute_margin(logits, num_labels, prediction, maximum, sums.exponentials, lane);
    case Criterion::binary_entropy:
      return compute_binary_entropy(logits, num_labels, lane);
    case Criterion::stability:
      return change_of_score(logits[0], before);
  }
  __trap();  // a criterion without a formula
  return NAN;
}

// One lane: what follows from uncertainty and prediction, or for stability the bits of the score. An invalid sample has
// the uncertainty NaN and the prediction -1.
__device__ __forceinline__ void write_decision(const Decision& decision, const DecisionOutputs& outputs, int64_t sample,
                                               float uncertainty, int prediction) {
  int streak = uncertainty == uncertainty;
  const bool counts = streak == 1 && decision.rule.criterion != Criterion::stability;
  if (counts && decision.history != nullptr && decision.history[2 * sample] == prediction) {
    streak += decision.history[2 * sample + 1];
  }
  outputs.uncertainty[sample] = uncertainty;
  outputs.history[2 * sample] = prediction;
  outputs.history[2 * sample + 1] = streak;
  outputs.keep[sample] = compares_speed(decision.rule.criterion) ? !(uncertainty < decision.speed[sample])
                                                                 : !(streak >= decision.rule.parameter);
}

// One warp: everything of a sample but its logits, which lie in shared memory.
__device__ __forceinline__ void decide(const Decision& decision, const DecisionOutputs& outputs, const float* logits,
                                       int num_labels, int64_t sample, int lane) {
  float maximum = -INFINITY;
  int prediction = num_labels;
#pragma unroll 1
  for (int label = lane; label < num_labels; label += WARP_SIZE) {
    if (!(logits[label] > maximum)) continue;
    maximum = logits[label];
    prediction = label;
  }
  const float lane_maximum = maximum;
  maximum = warp_max(maximum);
  prediction = __reduce_min_sync(FULL_WARP, lane_maximum == maximum ? prediction : num_labels);

  EntropySums sums;
#pragma unroll 1
  for (int label = lane; label < num_labels; label += WARP_SIZE) sums.add(logits[label] - maximum);
  sums.sum_warp();
  const int32_t* before = decision.history == nullptr ? nullptr : decision.history + 2 * sample;
  float uncertainty = measure_uncertainty(decision.rule, logits, num_labels, prediction, maximum, sums, before, lane);
  if (decision.rule.criterion == Criterion::stability) prediction = static_cast<int>(__float_as_uint(logits[0]));
  // The largest logit alone adds 1, so that less is NaN: a logit was NaN or infinite. To the binary entropy it matters
  // where only some are -inf, too.
  if (!(sums.exponentials >= 1) || uncertainty != uncertainty) {
    uncertainty = NAN;
    prediction = -1;
  }
  if (lane == 0) write_decision(decision, outputs, sample, uncertainty, prediction);
}

// All threads of the block: the outputs of a sample without tokens.
__device__ __forceinline__ void decide_without_tokens(const Decision& decision, const DecisionOutputs& outputs,
                                                      int num_labels, int64_t sample) {
  for (int label = threadIdx.x; label < num_labels; label += blockDim.x) {
    outputs.logits[sample * num_labels + label] = NAN;
  }
  if (threadIdx.x == 0) write_decision(decision, outputs, sample, NAN, -1);
}

}  // namespace fastbert::cuda
