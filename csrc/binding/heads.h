// What exit heads take, read from Python and checked.
#pragma once
#include <array>
#include <optional>

#include "binding/names.h"
#include "binding/tensor.h"
#include "decision.h"
#include "attentive_head.h"

namespace fastbert::binding {

inline constexpr std::initializer_list<DType> kRowTypes = {DType::float32, DType::bfloat16, DType::float16};

// hidden [T, H] and cu_seqlens [B + 1].
struct Rows {
  const void* hidden;
  DType dtype;
  const int32_t* cu_seqlens;
  int64_t tokens, batch, hidden_size;
  Device device;
};

Rows checked_rows(const Tensor& hidden, const Tensor& cu_seqlens, Device device);

// How a batch is decided: Speed [B], history [B, 2] of the head before or None, and the rule.
struct DecisionArguments {
  const Tensor& speed;
  const std::optional<Tensor>& history;
  ExitRule rule;
};

ExitRule checked_rule(Criterion criterion, int32_t parameter);
Decision checked_decision(const DecisionArguments& arguments, int64_t batch, Device device);

// logits [B, N], uncertainty [B], history [B, 2], keep [B].
using DecisionResults = std::array<Tensor, 4>;
DecisionOutputs checked_outputs(const DecisionResults& results, int64_t batch, int64_t num_labels, Device device);

// The folded weights of an attentive head: an object with the eight tensors as attributes of their names in
// csrc/attentive_head.h. Fills the sizes of `shape` that they tell, of which hidden_size is given.
AttentiveHeadWeights checked_weights(py::handle tensors, Activation narrow, Activation mlp, Device device,
                                     AttentiveHeadShape& shape);

}  // namespace fastbert::binding
