#include "binding/cuda_heads.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "binding/functions.h"
#include "pooled_exit_head.h"

namespace fastbert::binding {
namespace {

void refuse_unsupported(const char* reason) {
  if (reason == nullptr) return;
  PyErr_SetString(py::module_::import("fastbert_kernels.backends").attr("Unsupported").ptr(), reason);
  throw py::error_already_set();
}

class CudaAttentiveHead final : public CudaHead {
 public:
  CudaAttentiveHead(py::object tensors, ByName<Activation> narrow_activation, ByName<Activation> mlp_activation)
      : CudaAttentiveHead(Tensor(tensors.attr("projection_weight")), tensors, narrow_activation, mlp_activation) {}

  int64_t num_labels() const override { return shape_.num_labels; }

  void launch(const Rows& rows, const Decision& decision, const DecisionOutputs& outputs) const override {
    check(rows);
    AttentiveHeadShape shape = shape_;
    shape.tokens = rows.tokens;
    shape.batch = rows.batch;
    refuse_unsupported(cuda::attentive_head_unsupported(shape, weights_, dtype_));
    check_cuda(cuda::attentive_head(rows.hidden, dtype_, rows.cu_seqlens, weights_, shape, decision, outputs,
                                    device_.index, current_stream(device_)),
               "attentive_head");
  }

 private:
  CudaAttentiveHead(const Tensor& projection, py::object tensors, Activation narrow, Activation mlp)
      : CudaHead(cuda_device("projection_weight", projection), projection.sizes<2>("projection_weight")[1],
                 projection.dtype("projection_weight", kRowTypes)),
        tensors_(std::move(tensors)),
        shape_{0, 0, hidden_size_, 0, 0, 0},
        weights_(checked_weights(tensors_, narrow, mlp, device_, shape_)) {
    refuse_unsupported(cuda::attentive_head_unsupported(shape_, weights_, dtype_));
    for (const void* memory : {weights_.projection_weight, weights_.query, weights_.value})
      check_aligned("the matrices", memory, 16);
  }

  py::object tensors_;
  AttentiveHeadShape shape_;
  AttentiveHeadWeights weights_;
};

class CudaPooledHead final : public CudaHead {
 public:
  CudaPooledHead(const std::vector<py::object>& weights, const std::vector<py::object>& biases, ByName<Pooling> pooling,
                 ByName<Activation> activation)
      : CudaPooledHead(first_of(weights, biases), weights, biases, pooling, activation) {}

  int64_t num_labels() const override { return head_.size[head_.num_layers]; }

  void launch(const Rows& rows, const Decision& decision, const DecisionOutputs& outputs) const override {
    check(rows);
    check_cuda(cuda::pooled_exit_head(rows.hidden, dtype_, rows.tokens, rows.cu_seqlens, rows.batch, head_, decision,
                                      outputs, device_.index, current_stream(device_)),
               "pooled_exit_head");
  }

 private:
  static Tensor first_of(const std::vector<py::object>& weights, const std::vector<py::object>& biases) {
    if (weights.empty() || weights.size() > kMaxPooledLayers || biases.size() != weights.size())
      throw py::value_error("a pooled head has 1 to 3 layers, each with a bias");
    return Tensor(weights.front());
  }

  CudaPooledHead(const Tensor& first, const std::vector<py::object>& weights, const std::vector<py::object>& biases,
                 Pooling pooling, Activation activation)
      : CudaHead(cuda_device("weights", first), first.sizes<2>("weights")[1], first.dtype("weights", kRowTypes)),
        weights_(weights),
        biases_(biases) {
    head_.num_layers = static_cast<int32_t>(weights_.size());
    head_.pooling = pooling;
    head_.activation = activation;
    head_.size[0] = hidden_size_;
    for (size_t k = 0; k < weights_.size(); ++k) {
      const Tensor weight(weights_[k]);
      const int64_t out = weight.sizes<2>("weights")[0];
      weight.check_same_dtype("weights", first);
      head_.weight[k] = weight.checked("weights", {out, head_.size[k]}, device_);
      head_.bias[k] = Tensor(biases_[k]).checked<const float>("biases", {out}, device_);
      head_.size[k + 1] = out;
      check_aligned("weights", head_.weight[k], 16);
    }
    refuse_unsupported(cuda::pooled_exit_head_unsupported(head_, dtype_));
  }

  std::vector<py::object> weights_, biases_;
  PooledHeadWeights head_ = {};
};

// The head alone.
void decide_by(const CudaHead& head, const Tensor& hidden, const Tensor& cu_seqlens, const Tensor& speed,
               const DecisionResults& results, const std::optional<Tensor>& history, ByName<Criterion> criterion,
               int32_t parameter) {
  const Rows rows = checked_rows(hidden, cu_seqlens, cuda_device("hidden", hidden));
  const Decision decision =
      checked_decision({speed, history, checked_rule(criterion, parameter)}, rows.batch, rows.device);
  head.launch(rows, decision, checked_outputs(results, rows.batch, head.num_labels(), rows.device));
}

// What ops.attentive_head or ops.pooled_exit_head, and ops.compact behind it, do: the head asked, answers of those who
// leave written, the others moved together. `decided` and `compacted` are memory that
// may be for more samples and rows than there are. `limited` [B] are the Speeds at this head, where they are not the
// samples' own. With `nobody` [B], all False, everybody leaves.
void let_out(const CudaHead& head, const Tensor& hidden, const Tensor& cu_seqlens, const Tensor& speed,
             const std::optional<Tensor>& limited, const std::optional<Tensor>& history, const Tensor& sample_index,
             ByName<Criterion> criterion, int32_t parameter, const std::optional<Tensor>& nobody, int64_t layer,
             const DecisionResults& decided, const std::array<Tensor, 3>& written, const Compacted& compacted) {
  const Rows rows = checked_rows(hidden, cu_seqlens, cuda_device("hidden", hidden));
  const auto [batch, device] = std::pair(rows.batch, rows.device);
  const float* own_speed = speed.room<const float>("speed", {batch}, device);
  const Decision decision{checked_rule(criterion, parameter),
                          limited ? limited->room<const float>("limited", {batch}, device) : own_speed,
                          history ? history->room<const int32_t>("history", {batch, 2}, device) : nullptr};
  const int64_t labels = head.num_labels();
  const auto& [logits, uncertainty, new_history, keep] = decided;
  const DecisionOutputs outputs{logits.room<float>("logits", {batch, labels}, device),
                                uncertainty.room<float>("uncertainty", {batch}, device),
                                new_history.room<int32_t>("new history", {batch, 2}, device),
                                reinterpret_cast<uint8_t*>(keep.room<bool>("keep", {batch}, device))};
  const uint8_t* stays = outputs.keep;
  if (nobody) stays = reinterpret_cast<const uint8_t*>(nobody->room<const bool>("nobody", {batch}, device));
  const PackedBatch samples{rows.hidden,
                            rows.cu_seqlens,
                            stays,
                            sample_index.room<const int32_t>("sample_index", {batch}, device),
                            own_speed,
                            outputs.history,
                            outputs.logits,
                            outputs.uncertainty,
                            batch,
                            rows.tokens,
                            rows.hidden_size * hidden.element_bytes(),
                            labels,
                            layer};
  const auto& [out_logits, out_uncertainty, out_exit_layer] = written;
  const int64_t original = out_logits.sizes<2>("out_logits")[0];
  const Results results{out_logits.checked<float>("out_logits", {original, labels}, device),
                        out_uncertainty.checked<float>("out_uncertainty", {original}, device),
                        out_exit_layer.checked<int64_t>("out_exit_layer", {original}, device), original};
  const auto& [new_rows, bounds, index, speeds, histories, counts] = compacted;
  new_rows.check_same_dtype("compacted hidden", hidden);
  const CompactedBatch out{new_rows.room("compacted hidden", {rows.tokens, rows.hidden_size}, device),
                           bounds.room<int32_t>("compacted cu_seqlens", {batch + 1}, device),
                           index.room<int32_t>("compacted sample_index", {batch}, device),
                           speeds.room<float>("compacted speed", {batch}, device),
                           histories.room<int32_t>("compacted history", {batch, 2}, device),
                           counts.checked<int32_t>("counts", {2}, device)};
  if (out.hidden == rows.hidden && rows.tokens > 0)
    throw py::value_error("survivors cannot move within the memory that they come from");
  head.launch(rows, decision, outputs);
  check_cuda(cuda::compact(samples, out, results, device.index, current_stream(device)), "compact");
}

}  // namespace

void CudaHead::check(const Rows& rows) const {
  if (!(rows.device == device_)) throw py::value_error("hidden is not on the device of the head");
  if (rows.dtype != dtype_) throw py::type_error("hidden is not of the dtype of the head's matrices");
  if (rows.hidden_size != hidden_size_)
    throw py::value_error("hidden must have rows of " + std::to_string(hidden_size_) + " elements, not " +
                          std::to_string(rows.hidden_size));
  check_aligned("hidden", rows.hidden, 16);
}

Device cuda_device(const char* name, const Tensor& tensor) {
  const Device device = tensor.device(name);
  if (device.type != dlpack::kCuda) throw py::value_error(std::string(name) + " must be on a CUDA device");
  return device;
}

void bind_cuda_heads(py::module_& module) {
  using namespace py::literals;
  py::class_<CudaHead>(module, "CudaHead")
      .def("decide", &decide_by, "hidden"_a, "cu_seqlens"_a, "speed"_a, "results"_a, "history"_a, "criterion"_a,
           "parameter"_a);
  py::class_<CudaAttentiveHead, CudaHead>(module, "CudaAttentiveHead")
      .def(py::init<py::object, ByName<Activation>, ByName<Activation>>(), "weights"_a, "narrow_activation"_a,
           "mlp_activation"_a);
  py::class_<CudaPooledHead, CudaHead>(module, "CudaPooledHead")
      .def(py::init<std::vector<py::object>, std::vector<py::object>, ByName<Pooling>, ByName<Activation>>(),
           "weights"_a, "biases"_a, "pooling"_a, "activation"_a);
  module.def("let_out", &let_out);
}

}  // namespace fastbert::binding
