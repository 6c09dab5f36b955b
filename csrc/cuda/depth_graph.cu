// The stages of an encoder as one CUDA graph, in which the device decides how many of them run.
//
//   stage 0, decision 1 -> if 1: { stage 1, decision 2 } -> if 2: { stage 2, decision 3 } -> ... -> if n - 1: { stage n - 1 }
//
// A decision is a kernel of one thread: it looks whether the stage before has left samples and sets the condition of
// the next. Conditions are false at the start of a launch, so behind the last stage that runs, every other is skipped
// for the price of one condition. The chain is not nested: nesting would spare these, but a graph in a graph in a graph
// has to be started by the device at each level.
#include "../depth_graph.h"
#include "device.cuh"

namespace fastbert::cuda {
namespace {

constexpr int FIRST_DRIVER = 12040;  // whose graphs have conditional nodes

__global__ void decide_next(cudaGraphConditionalHandle next, const int32_t* samples) {
  cudaGraphSetConditional(next, *samples > 0 ? 1 : 0);
}

// A graph under construction: each node added runs behind the one added before.
class Chain {
 public:
  explicit Chain(cudaGraph_t graph) : graph_(graph) {}

  cudaError_t add_stage(const DepthStage& stage) {
    cudaGraphNode_t node = nullptr;
    const cudaError_t status =
        cudaGraphAddChildGraphNode(&node, graph_, &last_, count(), static_cast<cudaGraph_t>(stage.graph));
    last_ = node;
    return status;
  }

  cudaError_t add_decision(cudaGraphConditionalHandle next, const int32_t* samples) {
    void* arguments[] = {&next, &samples};
    const cudaKernelNodeParams kernel = {reinterpret_cast<void*>(decide_next), dim3(1), dim3(1), 0, arguments, nullptr};
    cudaGraphNode_t node = nullptr;
    const cudaError_t status = cudaGraphAddKernelNode(&node, graph_, &last_, count(), &kernel);
    last_ = node;
    return status;
  }

  // `body`: the graph, still empty, that runs where the condition is true.
  cudaError_t add_condition(cudaGraphConditionalHandle handle, cudaGraph_t* body) {
    cudaGraphNodeParams condition = {};
    condition.type = cudaGraphNodeTypeConditional;
    condition.conditional.handle = handle;
    condition.conditional.type = cudaGraphCondTypeIf;
    condition.conditional.size = 1;
    cudaGraphNode_t node = nullptr;
#if CUDART_VERSION >= 13000
    const cudaError_t status = cudaGraphAddNode(&node, graph_, &last_, nullptr, count(), &condition);
#else
    const cudaError_t status = cudaGraphAddNode(&node, graph_, &last_, count(), &condition);
#endif
    if (status == cudaSuccess) *body = condition.conditional.phGraph_out[0];
    last_ = node;
    return status;
  }

 private:
  size_t count() const { return last_ == nullptr ? 0 : 1; }

  cudaGraph_t graph_;
  cudaGraphNode_t last_ = nullptr;
};

cudaError_t add_stages(cudaGraph_t graph, const DepthStage* stages, int64_t count) {
  Chain chain(graph);
  Chain inner = chain;  // where the stage and the decision behind it go: the graph itself, then the conditions' bodies
  for (int64_t i = 0; i < count; ++i) {
    Chain& place = i == 0 ? chain : inner;
    cudaError_t status = place.add_stage(stages[i]);
    if (status != cudaSuccess || i + 1 == count) return status;
    cudaGraphConditionalHandle next = 0;
    status = cudaGraphConditionalHandleCreate(&next, graph, 0, cudaGraphCondAssignDefault);
    if (status != cudaSuccess) return status;
    status = place.add_decision(next, stages[i].samples);
    if (status != cudaSuccess) return status;
    cudaGraph_t body = nullptr;
    status = chain.add_condition(next, &body);
    if (status != cudaSuccess) return status;
    inner = Chain(body);
  }
  return cudaSuccess;
}

}  // namespace

const char* depth_graph_unsupported() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version < FIRST_DRIVER) {
    return "the driver has no conditional graph nodes, which came with CUDA 12.4";
  }
  return nullptr;
}

int make_depth_graph(const DepthStage* stages, int64_t count, int device, void** executable) {
  if (count < 1) return cudaErrorInvalidValue;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  cudaGraph_t graph = nullptr;
  cudaError_t status = cudaGraphCreate(&graph, 0);
  if (status != cudaSuccess) return status;
  status = add_stages(graph, stages, count);
  cudaGraphExec_t made = nullptr;
  if (status == cudaSuccess) status = cudaGraphInstantiate(&made, graph, 0);
  if (status == cudaSuccess) *executable = made;
  cudaGraphDestroy(graph);
  return status;
}

int launch_depth_graph(void* executable, int device, void* stream) {
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable), static_cast<cudaStream_t>(stream));
}

int destroy_depth_graph(void* executable) { return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable)); }

}  // namespace fastbert::cuda
