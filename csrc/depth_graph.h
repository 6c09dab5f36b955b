// The stages of an encoder as one CUDA graph, in which the device decides how many of them run.
#pragma once
#include <cstdint>

namespace fastbert {

struct DepthStage {
  void* graph;             // cudaGraph_t, copied: what it reads and writes keeps its place
  const int32_t* samples;  // in device memory, written by the stage: above 0 where the next one has something to do
};

namespace cuda {

// Why this driver has no such graphs, or nullptr.
const char* depth_graph_unsupported();

// Each returns 0 or a CUDA error. `executable` is for launch_depth_graph and goes with destroy_depth_graph.
int make_depth_graph(const DepthStage* stages, int64_t count, int device, void** executable);
int launch_depth_graph(void* executable, int device, void* stream);
int destroy_depth_graph(void* executable);

}  // namespace cuda
}  // namespace fastbert
