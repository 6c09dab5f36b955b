#include "binding/heads.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "binding/functions.h"
#include "binding/native_call.h"
#include "binding/packed.h"
#include "pooled_exit_head.h"
#include "pooling.h"

namespace fastbert::binding {

ExitRule checked_rule(Criterion criterion, int32_t parameter) {
  const int32_t smallest = smallest_parameter(criterion);
  if (smallest == 0 ? parameter != 0 : parameter < smallest)
    throw py::value_error(std::string("the parameter of ") + name_of(criterion) + " must be " +
                          (smallest == 0 ? "" : "at least ") + std::to_string(smallest) + ", not " +
                          std::to_string(parameter));
  return {criterion, parameter};
}

Decision checked_decision(const DecisionArguments& arguments, int64_t batch, Device device) {
  const std::optional<Tensor>& history = arguments.history;
  return {arguments.rule, arguments.speed.checked<const float>("speed", {batch}, device),
          history ? history->checked<const int32_t>("history", {batch, 2}, device) : nullptr};
}

DecisionOutputs checked_outputs(const DecisionResults& results, int64_t batch, int64_t num_labels, Device device) {
  const auto& [logits, uncertainty, history, keep] = results;
  return {logits.checked<float>("logits", {batch, num_labels}, device),
          uncertainty.checked<float>("uncertainty", {batch}, device),
          history.checked<int32_t>("new history", {batch, 2}, device),
          reinterpret_cast<uint8_t*>(keep.checked<bool>("keep", {batch}, device))};
}

Rows checked_rows(const Tensor& hidden, const Tensor& cu_seqlens, Device device) {
  const auto [tokens, width] = hidden.sizes<2>("hidden");
  const int64_t batch = cu_seqlens.sizes<1>("cu_seqlens")[0] - 1;
  return {hidden.checked("hidden", {tokens, width}, device),
          hidden.dtype("hidden", kRowTypes),
          cu_seqlens.checked<const int32_t>("cu_seqlens", {std::max<int64_t>(batch, 0) + 1}, device),
          tokens,
          batch,
          width,
          device};
}

AttentiveHeadWeights checked_weights(py::handle tensors, Activation narrow, Activation mlp, Device device,
                                     AttentiveHeadShape& shape) {
  const auto tensor = [tensors](const char* name) { return Tensor(tensors.attr(name)); };
  const Tensor query = tensor("query"), output_weight = tensor("output_weight");
  const auto [heads, narrow_size, query_columns] = query.sizes<3>("query");
  const int64_t labels = output_weight.sizes<2>("output_weight")[0];
  shape.narrow_size = narrow_size;
  shape.num_heads = heads;
  shape.num_labels = labels;
  const Tensor value = tensor("value"), projection_weight = tensor("projection_weight");
  value.check_same_dtype("value", query);
  projection_weight.dtype("projection_weight", kRowTypes);
  return {projection_weight.checked("projection_weight", {narrow_size, shape.hidden_size}, device),
          tensor("projection_bias").checked<const float>("projection_bias", {narrow_size}, device),
          query.checked("query", {heads, narrow_size, narrow_size}, device),
          tensor("query_bias").checked<const float>("query_bias", {heads, narrow_size}, device),
          value.checked("value", {heads * narrow_size, narrow_size}, device),
          tensor("value_bias").checked<const float>("value_bias", {narrow_size}, device),
          output_weight.checked<const float>("output_weight", {labels, narrow_size}, device),
          tensor("output_bias").checked<const float>("output_bias", {labels}, device),
          query.dtype("query", kRowTypes),
          narrow,
          mlp};
}

namespace {

// logits [B, N] are given.
void decide(const Tensor& logits, const Tensor& speed, const DecisionResults& results,
            const std::optional<Tensor>& history, ByName<Criterion> criterion, int32_t parameter) {
  const auto [batch, labels] = logits.sizes<2>("logits");
  const float* given = logits.checked<const float>("logits", {batch, labels}, kCpu);
  const Decision decision = checked_decision({speed, history, checked_rule(criterion, parameter)}, batch, kCpu);
  const DecisionOutputs outputs = checked_outputs(results, batch, labels, kCpu);
  const py::gil_scoped_release release;
  cpu::decide(given, batch, labels, decision, outputs);
}

// pooled [B, H] is written.
void pool(const Tensor& hidden, const Tensor& cu_seqlens, ByName<Pooling> pooling, const Tensor& pooled) {
  const Rows rows = checked_rows(hidden, cu_seqlens, kCpu);
  auto* out = pooled.checked<float>("pooled", {rows.batch, rows.hidden_size}, kCpu);
  const NativeCall call;
  check_cu_seqlens(rows.cu_seqlens, rows.batch, rows.tokens);
  cpu::pool(rows.hidden, rows.dtype, rows.cu_seqlens, rows.batch, rows.hidden_size, pooling, out);
}

// keys [B, h, H] are given, contexts [B, h, H] are written.
void attention_pooling(const Tensor& hidden, const Tensor& cu_seqlens, const Tensor& keys, const Tensor& contexts) {
  const Rows rows = checked_rows(hidden, cu_seqlens, kCpu);
  const int64_t heads = keys.sizes<3>("keys")[1];
  const auto* given = keys.checked<const float>("keys", {rows.batch, heads, rows.hidden_size}, kCpu);
  auto* out = contexts.checked<float>("contexts", {rows.batch, heads, rows.hidden_size}, kCpu);
  const NativeCall call;
  check_cu_seqlens(rows.cu_seqlens, rows.batch, rows.tokens);
  cpu::attention_pooling(rows.hidden, rows.dtype, rows.cu_seqlens, given,
                         {rows.tokens, rows.batch, rows.hidden_size, 0, heads, 0}, out);
}

void attentive_head_cpu(const Tensor& hidden, const Tensor& cu_seqlens, const Tensor& speed,
                        const KeptAttentiveHead& head, const DecisionResults& results,
                        const std::optional<Tensor>& history, ByName<Criterion> criterion, int32_t parameter) {
  const Rows rows = checked_rows(hidden, cu_seqlens, kCpu);
  const AttentiveHead& weights = head.weights;
  const AttentiveHeadShape shape{
      rows.tokens,       rows.batch,        weights.projection.depth, weights.projection.outputs,
      weights.num_heads, weights.num_labels};
  hidden.checked("hidden", {rows.tokens, shape.hidden_size}, kCpu);
  // Any rows are multiplied in float32, too.
  if (weights.projection.operand != DType::float32 &&
      weights.projection.operand != cpu::product_operand(rows.dtype, shape.hidden_size))
    throw py::type_error("the projection of the head is packed for rows of another dtype than those of hidden");
  const Decision decision = checked_decision({speed, history, checked_rule(criterion, parameter)}, rows.batch, kCpu);
  const DecisionOutputs outputs = checked_outputs(results, rows.batch, shape.num_labels, kCpu);
  const NativeCall call;
  check_cu_seqlens(rows.cu_seqlens, rows.batch, rows.tokens);
  cpu::attentive_head(rows.hidden, rows.dtype, rows.cu_seqlens, weights.projection, weights.weights, shape, decision,
                      outputs);
}

}  // namespace

void bind_heads(py::module_& module) {
  using namespace py::literals;
  module.def("decide", &decide, "logits"_a, "speed"_a, "results"_a, "history"_a, "criterion"_a, "parameter"_a);
  module.def("pool", &pool);
  module.def("attention_pooling", &attention_pooling);
  module.def("attentive_head_cpu", &attentive_head_cpu, "hidden"_a, "cu_seqlens"_a, "speed"_a, "head"_a, "results"_a,
             "history"_a, "criterion"_a, "parameter"_a);
}

}  // namespace fastbert::binding
