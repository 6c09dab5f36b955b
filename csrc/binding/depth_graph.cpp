#include "depth_graph.h"

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "binding/functions.h"
#include "binding/tensor.h"

namespace fastbert::binding {
namespace {

class DepthGraph {
 public:
  // Of each stage its graph, as torch.cuda.CUDAGraph.raw_cuda_graph() gives it, and the sample indices that it writes.
  explicit DepthGraph(std::vector<std::pair<uintptr_t, py::object>> stages) : stages_(std::move(stages)) {
    if (stages_.empty()) throw py::value_error("a graph of all layers has at least one stage");
    device_ = Tensor(stages_.front().second).device("sample_index");
    if (device_.type != dlpack::kCuda) throw py::value_error("sample_index must be on a CUDA device");
    std::vector<DepthStage> all;
    for (const auto& [graph, samples] : stages_) {
      const Tensor index(samples);
      const int64_t size = index.sizes<1>("sample_index")[0];
      if (size < 1) throw py::value_error("sample_index must have at least one element");
      all.push_back({reinterpret_cast<void*>(graph), index.checked<const int32_t>("sample_index", {size}, device_)});
    }
    const auto count = static_cast<int64_t>(all.size());
    check_cuda(cuda::make_depth_graph(all.data(), count, device_.index, &executable_), "a graph of all layers");
  }
  ~DepthGraph() { cuda::destroy_depth_graph(executable_); }
  DepthGraph(const DepthGraph&) = delete;
  DepthGraph& operator=(const DepthGraph&) = delete;

  // On torch's current stream.
  void launch() const {
    check_cuda(cuda::launch_depth_graph(executable_, device_.index, current_stream(device_)), "a graph of all layers");
  }

 private:
  std::vector<std::pair<uintptr_t, py::object>> stages_;
  Device device_ = {};
  void* executable_ = nullptr;
};

}  // namespace

void bind_depth_graph(py::module_& module) {
  py::class_<DepthGraph>(module, "DepthGraph")
      .def(py::init<std::vector<std::pair<uintptr_t, py::object>>>())
      .def("launch", &DepthGraph::launch);
  module.def("depth_graph_unsupported", &cuda::depth_graph_unsupported);
}

}  // namespace fastbert::binding
