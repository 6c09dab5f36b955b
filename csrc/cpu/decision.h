// The one place on the CPU that decides whether a sample may leave (decision.h has the rule).
#pragma once
#include <cstdint>

#include "../decision.h"

namespace fastbert::cpu {

// Read outputs.logits of sample b, [N], and write its uncertainty, history and keep.
void decide_sample(int64_t b, int64_t num_labels, const Decision& decision, const DecisionOutputs& outputs);

}  // namespace fastbert::cpu
