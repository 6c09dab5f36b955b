// Graphs of the CUDA runtime as far as the launchers build them, with conditional nodes. Nodes that nothing orders run
// in an order shuffled by the seed; what the manual forbids is an error.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "host_shim.h"

#undef gridDim
#undef blockDim

namespace {

struct Node;

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
};

struct Node {
  std::vector<const Node*> behind;
  std::function<void()> run;
  std::vector<std::unique_ptr<Graph>> bodies;  // of a conditional node
  std::vector<cudaGraph_t> body_handles;
};

struct Condition {
  const Graph* graph;
  unsigned initial, value;
  bool has_node;
};

std::vector<Condition> conditions;
std::vector<Graph*> live_graphs;
int live_executables = 0;
int calls_to_failure = -1;  // the call after so many fails; never where negative

bool fails() { return calls_to_failure >= 0 && calls_to_failure-- == 0; }

Graph* graph_of(cudaGraph_t handle) { return reinterpret_cast<Graph*>(handle); }
cudaGraph_t handle_of(Graph* graph) { return reinterpret_cast<cudaGraph_t>(graph); }

void run(const Graph& graph) {
  std::vector<const Node*> open, done;
  for (const auto& node : graph.nodes) open.push_back(node.get());
  std::mt19937 random(cuda_on_cpu::machine.order_seed);
  while (!open.empty()) {
    std::shuffle(open.begin(), open.end(), random);
    const auto next = std::find_if(open.begin(), open.end(), [&](const Node* node) {
      return std::all_of(node->behind.begin(), node->behind.end(),
                         [&](const Node* before) { return std::find(done.begin(), done.end(), before) != done.end(); });
    });
    (*next)->run();
    done.push_back(*next);
    open.erase(next);
  }
}

// A copy of a graph without conditional nodes.
std::shared_ptr<Graph> copy_of(const Graph& graph) {
  auto copy = std::make_shared<Graph>();
  for (const auto& node : graph.nodes) {
    if (!node->bodies.empty() || !node->behind.empty()) return nullptr;
    copy->nodes.push_back(std::make_unique<Node>());
    copy->nodes.back()->run = node->run;
  }
  return copy;
}

cudaError_t add(cudaGraph_t handle, const cudaGraphNode_t* behind, size_t count, cudaGraphNode_t* made, Node** node) {
  if (fails()) return cudaErrorInvalidValue;
  Graph* graph = graph_of(handle);
  auto added = std::make_unique<Node>();
  for (size_t i = 0; i < count; ++i) {
    const auto* before = reinterpret_cast<const Node*>(behind[i]);
    const auto known = [&](const auto& other) { return other.get() == before; };
    if (std::none_of(graph->nodes.begin(), graph->nodes.end(), known)) return cudaErrorInvalidValue;
    added->behind.push_back(before);
  }
  *node = added.get();
  *made = reinterpret_cast<cudaGraphNode_t>(added.get());
  graph->nodes.push_back(std::move(added));
  return cudaSuccess;
}

}  // namespace

void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value) { conditions.at(handle).value = value; }

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  *version = cuda_on_cpu::machine.driver_version;
  return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  if (fails()) return cudaErrorMemoryAllocation;
  live_graphs.push_back(new Graph);
  *graph = handle_of(live_graphs.back());
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
  const auto found = std::find(live_graphs.begin(), live_graphs.end(), graph_of(handle));
  if (found == live_graphs.end()) return cudaErrorInvalidValue;
  delete *found;
  live_graphs.erase(found);
  return cudaSuccess;
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* made, cudaGraph_t graph, const cudaGraphNode_t* behind,
                                       size_t count, cudaGraph_t child) {
  Node* node = nullptr;
  const cudaError_t status = add(graph, behind, count, made, &node);
  const std::shared_ptr<Graph> copy = copy_of(*graph_of(child));
  if (copy == nullptr) return cudaErrorNotSupported;
  if (status == cudaSuccess) node->run = [copy] { run(*copy); };
  return status;
}

// The only kernel that is ever a node.
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* made, cudaGraph_t graph, const cudaGraphNode_t* behind,
                                   size_t count, const cudaKernelNodeParams* parameters) {
  using Kernel = void (*)(cudaGraphConditionalHandle, const int32_t*);
  Node* node = nullptr;
  const cudaError_t status = add(graph, behind, count, made, &node);
  if (status != cudaSuccess) return status;
  const auto kernel = reinterpret_cast<Kernel>(parameters->func);
  const auto handle = *static_cast<cudaGraphConditionalHandle*>(parameters->kernelParams[0]);
  const auto samples = *static_cast<const int32_t**>(parameters->kernelParams[1]);
  const dim3 grid = parameters->gridDim, block = parameters->blockDim;
  if (grid.x * grid.y * grid.z * block.x * block.y * block.z != 1) return cudaErrorInvalidValue;
  node->run = [=] { kernel(handle, samples); };
  return cudaSuccess;
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* handle, cudaGraph_t graph, unsigned initial,
                                             unsigned flags) {
  if (fails() || flags != cudaGraphCondAssignDefault) return cudaErrorInvalidValue;
  *handle = conditions.size();
  conditions.push_back({graph_of(graph), initial, 99, false});
  return cudaSuccess;
}

cudaError_t cudaGraphAddNode(cudaGraphNode_t* made, cudaGraph_t graph, const cudaGraphNode_t* behind,
                             const cudaGraphEdgeData*, size_t count, cudaGraphNodeParams* parameters) {
  const auto& wanted = parameters->conditional;
  if (parameters->type != cudaGraphNodeTypeConditional || wanted.type != cudaGraphCondTypeIf || wanted.size != 1)
    return cudaErrorInvalidValue;
  Condition& condition = conditions.at(wanted.handle);
  if (condition.graph != graph_of(graph) || condition.has_node) return cudaErrorInvalidValue;
  Node* node = nullptr;
  const cudaError_t status = add(graph, behind, count, made, &node);
  if (status != cudaSuccess) return status;
  condition.has_node = true;
  node->bodies.push_back(std::make_unique<Graph>());
  Graph* body = node->bodies.front().get();
  node->body_handles.push_back(handle_of(body));
  parameters->conditional.phGraph_out = node->body_handles.data();
  node->run = [body, handle = wanted.handle] {
    if (conditions.at(handle).value != 0) run(*body);
  };
  return cudaSuccess;
}

// An executable lives on when its graph is destroyed.
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  if (fails()) return cudaErrorMemoryAllocation;
  auto* copy = new Graph(std::move(*graph_of(graph)));
  for (Condition& condition : conditions) {
    if (condition.graph == graph_of(graph)) condition.graph = copy;
  }
  ++live_executables;
  *made = reinterpret_cast<cudaGraphExec_t>(copy);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  const auto* graph = reinterpret_cast<const Graph*>(executable);
  for (Condition& condition : conditions) {
    if (condition.graph == graph) condition.value = condition.initial;
  }
  run(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  --live_executables;
  return cudaSuccess;
}

// For the tests: a graph that calls `stage(number)`; how much is alive; and which call is to fail.
cudaGraph_t make_stage(void (*stage)(int), int number) {
  live_graphs.push_back(new Graph);
  live_graphs.back()->nodes.push_back(std::make_unique<Node>());
  live_graphs.back()->nodes.back()->run = [=] { stage(number); };
  return handle_of(live_graphs.back());
}

int live() { return static_cast<int>(live_graphs.size()) + live_executables; }

void fail_after(int calls) { calls_to_failure = calls; }

void set_driver_version(int version) { cuda_on_cpu::machine.driver_version = version; }
}
