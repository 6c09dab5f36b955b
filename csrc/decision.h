// When a sample may leave, decided from the logits of one exit head.
//
//   uncertainty   entropy, patience:  -sum_c p_c log p_c / log N,  p = softmax(logits), 0 log 0 = 0
//                 top_k_entropy:      the same over the k = parameter most likely classes, renormalised, / log k
//                                     (over all classes when k >= N)
//                 confidence:         1 - p1,  p1 the largest of p
//                 margin:             1 - (p1 - p2),  p2 the second largest
//                 binary_entropy:     mean_c (-q_c log q_c - (1 - q_c) log(1 - q_c)) / log 2,  q = sigmoid(logits):
//                                     with a = |logit|, e = exp(-a) a class has the entropy log(1 + e) + a e / (1 + e)
//                 stability:          |s - s'|,  s the first logit, the score of a model with one; s' that of the head
//                                     before, infinity without one
//   prediction    the first class with the largest logit
//   streak        how many heads in a row predicted it: one more than before if the prediction is that of history, else 1;
//                 for stability, history has the bits of s and 1 in place of both
//   keep          patience:           !(streak >= parameter)
//                 the others:         !(uncertainty < speed)
//
// When a logit is NaN or +inf, all are -inf (for binary_entropy one is, for stability the first), or the sample has no
// tokens: uncertainty NaN, prediction -1, streak 0, keep 1.
#pragma once
#include <cstdint>
#include <stdexcept>

#include "named.h"

#ifdef __CUDACC__
#define FASTBERT_HOST_DEVICE __host__ __device__
#else
#define FASTBERT_HOST_DEVICE
#endif

namespace fastbert {

enum class Criterion : int32_t { entropy, top_k_entropy, confidence, margin, binary_entropy, patience, stability };

inline constexpr Named<Criterion> kCriterionNames[] = {{"entropy", Criterion::entropy},
                                                       {"top_k_entropy", Criterion::top_k_entropy},
                                                       {"confidence", Criterion::confidence},
                                                       {"margin", Criterion::margin},
                                                       {"binary_entropy", Criterion::binary_entropy},
                                                       {"patience", Criterion::patience},
                                                       {"stability", Criterion::stability}};
constexpr const auto& names_of(Criterion) { return kCriterionNames; }

// Whether it looks at what the head before said, also where Speed lets nobody out.
// A criterion missing in one of these does not compile (-Werror=switch).
constexpr bool has_history(Criterion criterion) {
  switch (criterion) {
    case Criterion::patience:
    case Criterion::stability:
      return true;
    case Criterion::entropy:
    case Criterion::top_k_entropy:
    case Criterion::confidence:
    case Criterion::margin:
    case Criterion::binary_entropy:
      return false;
  }
  __builtin_unreachable();
}

// Whether an uncertainty below Speed lets a sample out; else a streak as long as the parameter does.
FASTBERT_HOST_DEVICE constexpr bool compares_speed(Criterion criterion) {
  switch (criterion) {
    case Criterion::patience:
      return false;
    case Criterion::entropy:
    case Criterion::top_k_entropy:
    case Criterion::confidence:
    case Criterion::margin:
    case Criterion::binary_entropy:
    case Criterion::stability:
      return true;
  }
  __builtin_unreachable();
}

// The least parameter that makes sense; 0 for a criterion that has none.
constexpr int32_t smallest_parameter(Criterion criterion) {
  switch (criterion) {
    case Criterion::top_k_entropy:
      return 2;
    case Criterion::patience:
      return 1;
    case Criterion::entropy:
    case Criterion::confidence:
    case Criterion::margin:
    case Criterion::binary_entropy:
    case Criterion::stability:
      return 0;
  }
  throw std::logic_error("csrc/decision.h does not say whether a criterion has a parameter");
}

struct ExitRule {
  Criterion criterion;
  int32_t parameter;  // top_k_entropy: k >= 2. patience: heads in a row >= 1. The others have none, and it is 0.
};

struct Decision {
  ExitRule rule;
  const float* speed;  // [B]
  const int32_t*
      history;  // [B, 2] prediction and streak (bits of s and 1) of the head before, or nullptr at the first head
};

struct DecisionOutputs {
  float* logits;       // [B, N]
  float* uncertainty;  // [B]
  int32_t* history;    // [B, 2] prediction and streak; not the same memory as Decision::history
  uint8_t* keep;       // [B]
};

namespace cpu {
// The decision from logits [B, N] that are there already (outputs.logits may be the same memory).
void decide(const float* logits, int64_t batch, int64_t num_labels, const Decision& decision,
            const DecisionOutputs& outputs);
}  // namespace cpu

}  // namespace fastbert
