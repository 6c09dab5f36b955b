#include "encoder.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding/functions.h"
#include "binding/heads.h"
#include "binding/names.h"
#include "binding/native_call.h"
#include "binding/packed.h"
#include "binding/tensor.h"
#include "cpu/kernels.h"
#include "cpu/samples.h"

namespace fastbert::binding {
namespace {

int64_t packed_bytes(int64_t outputs, int64_t depth, DType operand) {
  if (outputs < 1 || depth < 1) throw py::value_error("a matrix has at least one row and one column");
  return cpu::packed_matrix_bytes(outputs, depth, operand);
}

// memory: uint8, as long as packed_matrix_bytes says.
PackedMatrix checked_matrix(const Tensor& memory, int64_t outputs, int64_t depth, DType operand) {
  const auto* bytes = memory.checked<const uint8_t>("packed weights", {packed_bytes(outputs, depth, operand)}, kCpu);
  check_aligned("packed weights", bytes, 64);
  return {bytes, outputs, depth, operand};
}

// weight [N, K] and bias [N], float32, into memory.
void pack_matrix(const Tensor& weight, const Tensor& bias, ByName<DType> operand, const Tensor& memory) {
  const auto [outputs, depth] = weight.sizes<2>("weight");
  const auto* values = weight.checked<const float>("weight", {outputs, depth}, kCpu);
  const auto* offsets = bias.checked<const float>("bias", {outputs}, kCpu);
  const PackedMatrix matrix = checked_matrix(memory, outputs, depth, operand);
  auto* out = memory.checked<uint8_t>("packed weights", {packed_bytes(outputs, depth, operand)}, kCpu);
  const py::gil_scoped_release release;
  cpu::pack_matrix(values, offsets, matrix, out);
}

void check_matrix(const char* name, const PackedMatrix& matrix, int64_t outputs, int64_t depth) {
  if (matrix.outputs != outputs || matrix.depth != depth)
    throw py::value_error(std::string(name) + " must be a matrix [" + std::to_string(outputs) + ", " +
                          std::to_string(depth) + "], not [" + std::to_string(matrix.outputs) + ", " +
                          std::to_string(matrix.depth) + "]");
}

template <class Weights>
const Weights& native(const py::object& kept) {
  const auto name = [](py::handle type) { return py::str(type.attr("__name__")).cast<std::string>(); };
  if (!py::isinstance<Kept<Weights>>(kept))
    throw py::type_error("these weights must be of type " + name(py::type::of<Kept<Weights>>()) + ", not " +
                         name(py::type::of(kept)));
  return kept.cast<const Kept<Weights>&>().weights;
}

// position_bias: [heads, 2P - 1], or None.
KeptLayer make_layer(py::object qkv, py::object attention_output, py::object intermediate, py::object output,
                     py::object norms, float layer_norm_eps, ByName<LayerNormKind> layer_norm,
                     int64_t num_attention_heads, ByName<Activation> activation, ByName<DType> attention_operand,
                     py::object position_bias) {
  EncoderLayerWeights weights{native<PackedMatrix>(qkv),
                              native<PackedMatrix>(attention_output),
                              native<PackedMatrix>(intermediate),
                              native<PackedMatrix>(output),
                              attention_operand,
                              nullptr,
                              layer_norm_eps,
                              layer_norm,
                              num_attention_heads,
                              activation,
                              nullptr,
                              0};
  const int64_t width = weights.output.outputs, inner = weights.output.depth;
  check_matrix("qkv", weights.qkv, 3 * width, width);
  check_matrix("attention_output", weights.attention_output, width, width);
  check_matrix("intermediate", weights.intermediate, inner, width);
  weights.norms = Tensor(norms).checked<const float>("norms", {4, width}, kCpu);
  if (num_attention_heads < 1 || width % num_attention_heads != 0)
    throw py::value_error(std::to_string(num_attention_heads) + " attention heads do not divide the hidden size " +
                          std::to_string(width));
  if (weights.activation != Activation::gelu && weights.activation != Activation::relu)
    throw py::value_error("an encoder layer has the activation gelu or relu, not " +
                          std::string(name_of(weights.activation)));
  if (weights.attention_operand != DType::float32 && weights.attention_operand != DType::bfloat16)
    throw py::value_error("attention multiplies in float32 or bfloat16, not " +
                          std::string(name_of(weights.attention_operand)));
  if (weights.layer_norm == LayerNormKind::unbiased && width < 2)
    throw py::value_error("an unbiased LayerNorm needs rows of at least 2 elements");
  if (!position_bias.is_none()) {
    const Tensor bias(position_bias);
    const int64_t distances = bias.sizes<2>("position_bias")[1];
    weights.position_bias = bias.checked<const float>("position_bias", {num_attention_heads, distances}, kCpu);
    if (distances % 2 == 0)
      throw py::value_error("position_bias must have a column for each distance from 1 - P to P - 1, not " +
                            std::to_string(distances) + " columns");
    weights.positions = (distances + 1) / 2;
  }
  return {weights,
          {std::move(qkv), std::move(attention_output), std::move(intermediate), std::move(output), std::move(norms),
           std::move(position_bias)}};
}

// tensors: as checked_weights takes them, query and value in float32.
KeptAttentiveHead make_attentive_head(py::object projection, py::object tensors, ByName<Activation> narrow_activation,
                                      ByName<Activation> mlp_activation) {
  const PackedMatrix& matrix = native<PackedMatrix>(projection);
  AttentiveHeadShape shape{0, 0, matrix.depth, 0, 0, 0};
  const AttentiveHeadWeights weights = checked_weights(tensors, narrow_activation, mlp_activation, kCpu, shape);
  check_matrix("projection", matrix, shape.narrow_size, shape.hidden_size);
  if (weights.fold_dtype != DType::float32) throw py::type_error("query and value must be torch.float32 on a CPU");
  if (weights.narrow_activation != Activation::tanh ||
      (weights.mlp_activation != Activation::tanh && weights.mlp_activation != Activation::identity))
    throw py::value_error(
        "a packed attentive head has tanh behind its projection, and tanh or identity behind its MLP");
  return {{matrix, weights, shape.num_heads, shape.num_labels}, {std::move(projection), std::move(tensors)}};
}

KeptPooledHead make_pooled_head(std::vector<py::object> layers, ByName<Pooling> pooling,
                                ByName<Activation> activation) {
  if (layers.empty()) throw py::value_error("a pooled head has at least one layer");
  PackedPooledHead head{{}, pooling, activation};
  for (const py::object& layer : layers) {
    const PackedMatrix& matrix = native<PackedMatrix>(layer);
    if (!head.layers.empty())
      check_matrix("a layer of the pooled head", matrix, matrix.outputs, head.layers.back().outputs);
    if (matrix.operand != DType::float32) throw py::type_error("the layers of a pooled head are packed for float32");
    head.layers.push_back(matrix);
  }
  return {std::move(head), std::move(layers)};
}

// layers and heads: [L], None for a layer or a head that is not there.
Kept<EncoderWeights> make_encoder(std::vector<py::object> layers, const std::vector<py::object>& heads) {
  if (layers.empty() || layers.front().is_none() || heads.size() != layers.size() || heads.back().is_none())
    throw py::value_error("an encoder begins with a layer, has a head or None behind each, and a head behind the last");
  EncoderWeights weights{};
  const int64_t width = native<EncoderLayerWeights>(layers.front()).output.outputs;
  for (const py::object& layer : layers) {
    if (layer.is_none()) {
      weights.layers.emplace_back();
      continue;
    }
    weights.layers.emplace_back(native<EncoderLayerWeights>(layer));
    check_matrix("the output of a layer", weights.layers.back()->output, width, weights.layers.back()->output.depth);
  }
  const auto add = [&](const auto& head, const PackedMatrix& first, int64_t labels) {
    if (weights.num_labels == 0) weights.num_labels = labels;
    check_matrix("the first matrix of a head", first, first.outputs, width);
    if (labels != weights.num_labels) throw py::value_error("all heads of an encoder have the same number of labels");
    weights.heads.emplace_back(head);
  };
  for (const py::object& head : heads) {
    if (head.is_none()) {
      weights.heads.emplace_back();
    } else if (py::isinstance<KeptAttentiveHead>(head)) {
      const AttentiveHead& attentive = native<AttentiveHead>(head);
      add(attentive, attentive.projection, attentive.num_labels);
    } else {
      const PackedPooledHead& pooled = native<PackedPooledHead>(head);
      add(pooled, pooled.layers.front(), pooled.layers.back().outputs);
    }
  }
  layers.insert(layers.end(), heads.begin(), heads.end());
  return {std::move(weights), std::move(layers)};
}

void check_positions(const EncoderWeights& weights, int64_t longest) {
  for (const auto& layer : weights.layers)
    if (layer && layer->position_bias != nullptr && longest > layer->positions)
      throw py::value_error("a sample of " + std::to_string(longest) + " tokens is longer than the " +
                            std::to_string(layer->positions) + " positions that position_bias has distances of");
}

// history: [B, 2] or None. layer_speed and asked: [L]. results: logits [B, N], uncertainty [B], exit_layer [B].
// survivors: None behind the last layer.
void run_span(const Tensor& hidden, const Tensor& cu_seqlens, const Tensor& speed, const std::optional<Tensor>& history,
              int64_t first, int64_t until, ByName<Criterion> criterion, int32_t parameter, const Tensor& layer_speed,
              const Tensor& asked, const Kept<EncoderWeights>& encoder, const std::array<Tensor, 3>& results,
              const std::optional<Compacted>& survivors) {
  const EncoderWeights& weights = encoder.weights;
  const int64_t tokens = hidden.sizes<2>("hidden")[0], batch = speed.sizes<1>("speed")[0];
  const auto depth = static_cast<int64_t>(weights.layers.size());
  if (first < 0 || until <= first || until > depth)
    throw py::value_error("a span of an encoder of " + std::to_string(depth) + " layers cannot go from " +
                          std::to_string(first) + " to " + std::to_string(until));
  if (survivors.has_value() != (until < depth))
    throw py::value_error("a span needs room for survivors where it ends before the last layer, and only there");
  const SpanInput input{hidden.checked("hidden", {tokens, weights.layers.front()->output.outputs}, kCpu),
                        hidden.dtype("hidden", {DType::float32, DType::bfloat16}),
                        cu_seqlens.checked<const int32_t>("cu_seqlens", {batch + 1}, kCpu),
                        batch,
                        first,
                        until,
                        checked_rule(criterion, parameter),
                        speed.checked<const float>("speed", {batch}, kCpu),
                        history ? history->checked<const int32_t>("history", {batch, 2}, kCpu) : nullptr,
                        layer_speed.checked<const float>("layer_speed", {depth}, kCpu),
                        reinterpret_cast<const uint8_t*>(asked.checked<const bool>("asked", {depth}, kCpu))};
  for (const auto& layer : weights.layers) {
    if (!layer || input.dtype == DType::bfloat16) continue;
    for (const PackedMatrix& matrix : {layer->qkv, layer->attention_output, layer->intermediate, layer->output})
      if (matrix.operand == DType::bfloat16)
        throw py::type_error("hidden must be torch.bfloat16, for which the layers are packed");
  }
  for (const auto& head : weights.heads) {
    const auto* attentive = head ? std::get_if<AttentiveHead>(&*head) : nullptr;
    if (attentive != nullptr && input.dtype != DType::bfloat16 && attentive->projection.operand == DType::bfloat16)
      throw py::type_error("hidden must be torch.bfloat16, for which the heads are packed");
  }
  const auto& [logits, uncertainty, exit_layer] = results;
  const Results out{logits.checked<float>("logits", {batch, weights.num_labels}, kCpu),
                    uncertainty.checked<float>("uncertainty", {batch}, kCpu),
                    exit_layer.checked<int64_t>("exit_layer", {batch}, kCpu), batch};
  const CompactedBatch left = survivors ? checked_compacted(*survivors, hidden, batch) : CompactedBatch{};
  const NativeCall call;
  check_cu_seqlens(input.cu_seqlens, batch, tokens);
  check_positions(weights, cpu::longest_sample(input.cu_seqlens, batch));
  cpu::run_span(input, weights, out, left);
}

}  // namespace

void bind_encoder(py::module_& module) {
  module.def("product_operand",
             [](ByName<DType> rows, int64_t depth) { return name_of(cpu::product_operand(rows, depth)); });
  module.def("packed_matrix_bytes", [](int64_t outputs, int64_t depth, ByName<DType> operand) {
    return packed_bytes(outputs, depth, operand);
  });
  module.def("pack_matrix", &pack_matrix);
  py::class_<KeptMatrix>(module, "PackedMatrix")
      .def(py::init([](py::object memory, int64_t outputs, int64_t depth, ByName<DType> operand) {
        const PackedMatrix matrix = checked_matrix(Tensor(memory), outputs, depth, operand);
        return KeptMatrix{matrix, {std::move(memory)}};
      }));
  py::class_<KeptLayer>(module, "EncoderLayer").def(py::init(&make_layer));
  py::class_<KeptAttentiveHead>(module, "AttentiveHead").def(py::init(&make_attentive_head));
  py::class_<KeptPooledHead>(module, "PooledHead").def(py::init(&make_pooled_head));
  py::class_<Kept<EncoderWeights>>(module, "Encoder").def(py::init(&make_encoder));
  module.def("run_span", &run_span);
}

}  // namespace fastbert::binding
