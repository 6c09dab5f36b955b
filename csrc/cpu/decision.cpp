// Uncertainty, prediction, streak and keep of a sample, from its logits.
#include "cpu/decision.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#include "cpu/kernels.h"

namespace fastbert::cpu {
namespace {

constexpr double kLn2 = 0.693147180559945309417;

float top_k_entropy(const float* logits, int64_t num_labels, int64_t k) {
  const Kernels& set = kernels();
  if (k >= num_labels) return set.normalised_entropy(logits, num_labels);
  for (int64_t i = 0; i < num_labels; ++i)
    if (logits[i] != logits[i]) return logits[i];  // NaN has no place in an order
  std::vector<float> largest(logits, logits + num_labels);
  std::nth_element(largest.begin(), largest.begin() + (k - 1), largest.end(), std::greater<float>());
  return set.normalised_entropy(largest.data(), k);
}

// p1 - p2 = (1 - e) / S, with e = exp(second largest logit - largest) and S the sum of the exponentials of all.
float margin(const float* logits, int64_t num_labels) {
  float first = -INFINITY, second = -INFINITY;
  for (int64_t i = 0; i < num_labels; ++i) {
    second = std::max(second, std::min(first, logits[i]));
    first = std::max(first, logits[i]);
  }
  return 1.0f - (1.0f - std::exp(second - first)) * kernels().largest_probability(logits, num_labels);
}

// Summed in float64, so that the number of labels costs no digits.
float binary_entropy(const float* logits, int64_t num_labels) {
  double sum = 0.0;
  for (int64_t i = 0; i < num_labels; ++i) {
    const float distance = std::fabs(logits[i]), exponential = std::exp(-distance);
    sum += std::log1p(exponential) + distance * exponential / (1.0f + exponential);  // NaN for infinity times 0
  }
  const auto entropy = static_cast<float>(sum / (static_cast<double>(num_labels) * kLn2));
  return entropy > 1.0f ? 1.0f : entropy;  // leaves NaN as it is
}

// `before` is the history of the head before, or nullptr.
float change_of_score(const float* logits, int64_t num_labels, const int32_t* before) {
  const float largest = kernels().largest_probability(logits, num_labels);  // NaN where a logit is NaN or +inf
  if (largest != largest || !std::isfinite(logits[0])) return NAN;
  if (before == nullptr || before[1] <= 0) return INFINITY;
  float previous;
  std::memcpy(&previous, before, sizeof previous);
  return std::fabs(logits[0] - previous);
}

float measure_uncertainty(const float* logits, int64_t num_labels, const ExitRule& rule, const int32_t* before) {
  switch (rule.criterion) {
    case Criterion::entropy:
    case Criterion::patience:
      return kernels().normalised_entropy(logits, num_labels);
    case Criterion::top_k_entropy:
      return top_k_entropy(logits, num_labels, rule.parameter);
    case Criterion::confidence:
      return 1.0f - kernels().largest_probability(logits, num_labels);
    case Criterion::margin:
      return margin(logits, num_labels);
    case Criterion::binary_entropy:
      return binary_entropy(logits, num_labels);
    case Criterion::stability:
      return change_of_score(logits, num_labels, before);
  }
  throw std::logic_error("a criterion without a formula in csrc/cpu/decision.cpp");
}

}  // namespace

void decide_sample(int64_t b, int64_t num_labels, const Decision& decision, const DecisionOutputs& outputs) {
  const float* logits = outputs.logits + b * num_labels;
  const int32_t* before = decision.history ? decision.history + 2 * b : nullptr;
  const float uncertainty = measure_uncertainty(logits, num_labels, decision.rule, before);
  outputs.uncertainty[b] = uncertainty;
  int32_t* history = outputs.history + 2 * b;
  if (uncertainty != uncertainty) {
    history[0] = -1;
    history[1] = 0;
    outputs.keep[b] = 1;
    return;
  }
  if (decision.rule.criterion == Criterion::stability) {
    std::memcpy(history, logits, sizeof *logits);
    history[1] = 1;
  } else {
    history[0] = static_cast<int32_t>(std::max_element(logits, logits + num_labels) - logits);
    history[1] = before && before[0] == history[0] ? before[1] + 1 : 1;
  }
  const bool leaves =
      compares_speed(decision.rule.criterion) ? uncertainty < decision.speed[b] : history[1] >= decision.rule.parameter;
  outputs.keep[b] = !leaves;
}

void decide(const float* logits, int64_t batch, int64_t num_labels, const Decision& decision,
            const DecisionOutputs& outputs) {
  if (logits != outputs.logits) std::memcpy(outputs.logits, logits, batch * num_labels * sizeof(float));
  for (int64_t b = 0; b < batch; ++b) decide_sample(b, num_labels, decision, outputs);
}

}  // namespace fastbert::cpu
