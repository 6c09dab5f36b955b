// Python binding: addresses and sizes in, nothing of torch. fastbert_kernels/ops checks shapes, dtypes and devices
// before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "binding/functions.h"
#include "binding/native_call.h"
#include "binding/names.h"
#include "binding/tensor.h"
#include "compact.h"
#include "cpu/kernels.h"
#include "cpu/profile.h"
#include "depth_graph.h"
#include "embeddings.h"
#include "encoder.h"
#include "encoder_layer.h"
#include "exit_head.h"
#include "pooled_exit_head.h"

namespace py = pybind11;
using namespace pybind11::literals;

#ifdef FASTBERT_WITH_CUDA
void fastbert::binding::check_cuda(int status, const char* op) {
  if (status != 0)
    throw std::runtime_error(std::string("fastbert_kernels: ") + op + " failed with CUDA error " +
                             std::to_string(status));
}
#endif

namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

#ifdef FASTBERT_WITH_CUDA
using fastbert::binding::check_cuda;

py::object or_none(const char* reason) { return reason ? py::object(py::str(reason)) : py::none(); }

class DepthGraph {
 public:
  // (graph, samples) of each stage
  DepthGraph(const std::vector<std::pair<Address, Address>>& stages, int device) : device_(device) {
    std::vector<fastbert::DepthStage> all;
    for (const auto& [graph, samples] : stages) all.push_back({at<void>(graph), at<const int32_t>(samples)});
    const auto count = static_cast<int64_t>(all.size());
    check_cuda(fastbert::cuda::make_depth_graph(all.data(), count, device, &executable_), "a graph of all layers");
  }
  ~DepthGraph() { fastbert::cuda::destroy_depth_graph(executable_); }
  DepthGraph(const DepthGraph&) = delete;
  DepthGraph& operator=(const DepthGraph&) = delete;

  void launch(Address stream) const {
    check_cuda(fastbert::cuda::launch_depth_graph(executable_, device_, at<void>(stream)), "a graph of all layers");
  }

 private:
  void* executable_ = nullptr;
  int device_;
};
#endif

fastbert::ExitHeadWeights make_weights(Address projection_weight, Address projection_bias, Address query,
                                       Address query_bias, Address value, Address value_bias, Address output_weight,
                                       Address output_bias, int fold_dtype, int narrow_activation, int mlp_activation) {
  return {at<const void>(projection_weight),
          at<const float>(projection_bias),
          at<const void>(query),
          at<const float>(query_bias),
          at<const void>(value),
          at<const float>(value_bias),
          at<const float>(output_weight),
          at<const float>(output_bias),
          static_cast<fastbert::DType>(fold_dtype),
          static_cast<fastbert::Activation>(narrow_activation),
          static_cast<fastbert::Activation>(mlp_activation)};
}

fastbert::PackedMatrix make_packed_matrix(Address memory, int64_t outputs, int64_t depth, int operand) {
  return {at<const void>(memory), outputs, depth, static_cast<fastbert::DType>(operand)};
}

fastbert::EncoderLayerWeights make_layer_weights(const fastbert::PackedMatrix& qkv,
                                                 const fastbert::PackedMatrix& attention_output,
                                                 const fastbert::PackedMatrix& intermediate,
                                                 const fastbert::PackedMatrix& output, Address norms,
                                                 float layer_norm_eps, int layer_norm, int64_t num_attention_heads,
                                                 int activation) {
  return {qkv,
          attention_output,
          intermediate,
          output,
          at<const float>(norms),
          layer_norm_eps,
          static_cast<fastbert::LayerNormKind>(layer_norm),
          num_attention_heads,
          static_cast<fastbert::Activation>(activation)};
}

fastbert::PooledHeadWeights make_pooled_weights(const std::vector<Address>& weights, const std::vector<Address>& biases,
                                                const std::vector<int64_t>& sizes, int pooling, int activation) {
  fastbert::PooledHeadWeights made = {};
  if (weights.empty() || weights.size() > fastbert::kMaxPooledLayers || biases.size() != weights.size() ||
      sizes.size() != weights.size() + 1) {
    throw std::invalid_argument("a pooled head has 1 to 3 layers, each with a bias");
  }
  made.num_layers = static_cast<int32_t>(weights.size());
  for (size_t layer = 0; layer < weights.size(); ++layer) {
    made.weight[layer] = at<const void>(weights[layer]);
    made.bias[layer] = at<const float>(biases[layer]);
  }
  std::copy(sizes.begin(), sizes.end(), made.size);
  made.pooling = static_cast<fastbert::Pooling>(pooling);
  made.activation = static_cast<fastbert::Activation>(activation);
  return made;
}

fastbert::ExitHeadShape make_shape(int64_t tokens, int64_t batch, int64_t hidden_size, int64_t narrow_size,
                                   int64_t num_heads, int64_t num_labels) {
  return {tokens, batch, hidden_size, narrow_size, num_heads, num_labels};
}

fastbert::ExitRule make_rule(int criterion, int parameter) {
  return {static_cast<fastbert::Criterion>(criterion), parameter};
}

fastbert::Decision make_decision(int criterion, int parameter, Address speed, Address history) {
  return {make_rule(criterion, parameter), at<const float>(speed), at<const int32_t>(history)};
}

fastbert::DecisionOutputs make_decision_outputs(Address logits, Address uncertainty, Address history, Address keep) {
  return {at<float>(logits), at<float>(uncertainty), at<int32_t>(history), at<uint8_t>(keep)};
}

fastbert::Results make_results(Address logits, Address uncertainty, Address exit_layer) {
  return {at<float>(logits), at<float>(uncertainty), at<int64_t>(exit_layer)};
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  using namespace fastbert;

  // Small structs of addresses; whoever builds one keeps the tensors behind it alive.
  py::class_<ExitHeadWeights>(module, "ExitHeadWeights").def(py::init(&make_weights));
  py::class_<PackedMatrix>(module, "PackedMatrix")
      .def(py::init(&make_packed_matrix), "memory"_a, "outputs"_a, "depth"_a, "operand"_a);
  py::class_<EncoderLayerWeights>(module, "EncoderLayerWeights")
      .def(py::init(&make_layer_weights), "qkv"_a, "attention_output"_a, "intermediate"_a, "output"_a, "norms"_a,
           "layer_norm_eps"_a, "layer_norm"_a, "num_attention_heads"_a, "activation"_a);
  py::class_<AttentiveHead>(module, "AttentiveHead")
      .def(py::init([](const PackedMatrix& projection, const ExitHeadWeights& weights, int64_t num_heads) {
             return AttentiveHead{projection, weights, num_heads};
           }),
           "projection"_a, "weights"_a, "num_heads"_a);
  py::class_<PackedPooledHead>(module, "PackedPooledHead")
      .def(py::init([](std::vector<PackedMatrix> layers, int pooling, int activation) {
             if (layers.empty()) throw std::invalid_argument("a pooled head has at least one layer");
             return PackedPooledHead{std::move(layers), static_cast<Pooling>(pooling),
                                     static_cast<Activation>(activation)};
           }),
           "layers"_a, "pooling"_a, "activation"_a);
  py::class_<EncoderWeights>(module, "EncoderWeights")
      .def(py::init([](std::vector<std::optional<EncoderLayerWeights>> layers,
                       std::vector<std::optional<ExitHead>> heads, int64_t num_labels) {
             if (layers.empty() || !layers.front() || heads.size() != layers.size() || !heads.back())
               throw std::invalid_argument(
                   "an encoder begins with a layer, has a head or None behind each, and a head behind the last");
             return EncoderWeights{std::move(layers), std::move(heads), num_labels};
           }),
           "layers"_a, "heads"_a, "num_labels"_a);
  py::class_<ExitHeadShape>(module, "ExitHeadShape").def(py::init(&make_shape));
  py::class_<PooledHeadWeights>(module, "PooledHeadWeights").def(py::init(&make_pooled_weights));
  py::class_<Decision>(module, "Decision").def(py::init(&make_decision));
  py::class_<DecisionOutputs>(module, "DecisionOutputs").def(py::init(&make_decision_outputs));
  py::class_<Results>(module, "Results").def(py::init(&make_results));

  module.def("count_threads_with", &binding::NativeCall::count_threads_with);
  py::register_local_exception_translator(&binding::translate_interrupted);
  module.def("cpu_instruction_set", [] { return cpu::kernels().name; });
  module.def("product_operand", [](int rows, int64_t depth) {
    return static_cast<int>(cpu::product_operand(static_cast<DType>(rows), depth));
  });
  module.def("packed_matrix_bytes", [](const PackedMatrix& matrix) {
    return cpu::packed_matrix_bytes(matrix.outputs, matrix.depth, matrix.operand);
  });
  module.def("pack_matrix", [](Address weight, Address bias, const PackedMatrix& matrix, Address memory) {
    const py::gil_scoped_release release;
    cpu::pack_matrix(at<const float>(weight), at<const float>(bias), matrix, at<void>(memory));
  });
  module.def("exit_head_cpu", [](Address hidden, int dtype, Address cu_seqlens, const PackedMatrix& projection,
                                 const ExitHeadWeights& weights, const ExitHeadShape& shape, const Decision& decision,
                                 const DecisionOutputs& outputs) {
    const binding::NativeCall call;
    cpu::exit_head(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens), projection,
                   weights, shape, decision, outputs);
  });
  module.def("encoder_layer_cpu", [](Address hidden, int dtype, Address cu_seqlens, int64_t batch,
                                     const EncoderLayerWeights& weights, Address out) {
    const binding::NativeCall call;
    cpu::encoder_layer(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens), batch, weights,
                       at<void>(out));
  });
  module.def("run_encoder_cpu", [](Address hidden, int dtype, Address cu_seqlens, int64_t batch, int criterion,
                                   int parameter, Address speed, Address layer_speed, Address asked,
                                   const EncoderWeights& weights, const Results& results) {
    const binding::NativeCall call;
    const EncoderInput input{at<const void>(hidden),          static_cast<DType>(dtype),
                             at<const int32_t>(cu_seqlens),   batch,
                             make_rule(criterion, parameter), at<const float>(speed),
                             at<const float>(layer_speed),    at<const uint8_t>(asked)};
    cpu::run_encoder(input, weights, results);
  });
  module.def("start_profile", [] { cpu::profile() = {true, {}}; });
  module.def("stop_profile", [] {
    py::dict seconds;
    for (size_t i = 0; i < cpu::kPhases; ++i) seconds[cpu::kPhaseNames[i]] = cpu::profile().seconds[i];
    cpu::profile() = {};
    return seconds;
  });
  module.def("attention_pooling_cpu", [](Address hidden, int dtype, Address cu_seqlens, Address keys,
                                         const ExitHeadShape& shape, Address contexts) {
    const binding::NativeCall call;
    cpu::attention_pooling(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens),
                           at<const float>(keys), shape, at<float>(contexts));
  });
  module.def("pool_cpu", [](Address hidden, int dtype, Address cu_seqlens, int64_t batch, int64_t hidden_size,
                            int pooling, Address pooled) {
    const binding::NativeCall call;
    cpu::pool(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens), batch, hidden_size,
              static_cast<Pooling>(pooling), at<float>(pooled));
  });
  module.def("decide_cpu", [](Address logits, int64_t batch, int64_t num_labels, const Decision& decision,
                              const DecisionOutputs& outputs) {
    const py::gil_scoped_release release;
    cpu::decide(at<const float>(logits), batch, num_labels, decision, outputs);
  });
  binding::bind_compact(module);
  binding::bind_embed(module);

#ifdef FASTBERT_WITH_CUDA
  module.attr("cuda_version") = FASTBERT_CUDA_VERSION;
  module.attr("cuda_architectures") = FASTBERT_CUDA_ARCHITECTURES;
  module.def("exit_head_cuda_unsupported", [](const ExitHeadShape& shape, const ExitHeadWeights& weights, int dtype) {
    return or_none(cuda::exit_head_unsupported(shape, weights, static_cast<DType>(dtype)));
  });
  module.def("exit_head_cuda", [](Address hidden, int dtype, Address cu_seqlens, const ExitHeadWeights& weights,
                                  const ExitHeadShape& shape, const Decision& decision, const DecisionOutputs& outputs,
                                  int device, Address stream) {
    check_cuda(cuda::exit_head(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens),
                               weights, shape, decision, outputs, device, at<void>(stream)),
               "exit_head");
  });
  module.def("pooled_exit_head_cuda_unsupported", [](const PooledHeadWeights& weights, int dtype) {
    return or_none(cuda::pooled_exit_head_unsupported(weights, static_cast<DType>(dtype)));
  });
  module.def("pooled_exit_head_cuda", [](Address hidden, int dtype, Address cu_seqlens, int64_t batch,
                                         const PooledHeadWeights& weights, const Decision& decision,
                                         const DecisionOutputs& outputs, int device, Address stream) {
    check_cuda(cuda::pooled_exit_head(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens),
                                      batch, weights, decision, outputs, device, at<void>(stream)),
               "pooled_exit_head");
  });
  py::class_<DepthGraph>(module, "DepthGraph")
      .def(py::init<const std::vector<std::pair<Address, Address>>&, int>())
      .def("launch", &DepthGraph::launch);
  module.def("depth_graph_unsupported", [] { return or_none(cuda::depth_graph_unsupported()); });
#else
  module.attr("cuda_version") = py::none();
  module.attr("cuda_architectures") = py::none();
#endif
}
