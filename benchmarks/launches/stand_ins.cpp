// In place of the CUDA kernels, for a machine without a GPU: launchers that count their calls and return at once. What
// a host does for a layer is all there, from Python to the arguments of a launch; what the CUDA runtime does is not.
// Nobody ever leaves: a compaction passes its samples on.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "attentive_head.h"
#include "binding/dlpack.h"
#include "compact.h"
#include "cuda_availability.h"
#include "depth_graph.h"
#include "pooled_exit_head.h"

namespace dlpack = fastbert::binding::dlpack;

namespace {

int64_t launches = 0;

decltype(dlpack::ExchangeTable::view) view_of_torch = nullptr;

// Tensors of the CPU, as if they were on the first GPU.
int view_on_gpu(void* tensor, dlpack::Tensor* out) {
  const int status = view_of_torch(tensor, out);
  out->device = {dlpack::kCuda, 0};
  return status;
}

int no_stream(int32_t, int32_t, void** out) {
  *out = nullptr;
  return 0;
}

}  // namespace

namespace fastbert::cuda {

const char* attentive_head_unsupported(const AttentiveHeadShape&, const AttentiveHeadWeights&, DType) {
  return nullptr;
}

int attentive_head(const void*, DType, const int32_t*, const AttentiveHeadWeights&, const AttentiveHeadShape&,
                   const Decision&, const DecisionOutputs&, int, void*) {
  ++launches;
  return 0;
}

const char* pooled_exit_head_unsupported(const PooledHeadWeights&, DType) { return nullptr; }

int pooled_exit_head(const void*, DType, int64_t, const int32_t*, int64_t, const PooledHeadWeights&, const Decision&,
                     const DecisionOutputs&, int, void*) {
  ++launches;
  return 0;
}

int compact(const PackedBatch& batch, const CompactedBatch& out, const Results&, int, void*) {
  ++launches;
  std::memcpy(out.hidden, batch.hidden, static_cast<size_t>(batch.tokens * batch.row_bytes));
  std::copy_n(batch.cu_seqlens, batch.batch + 1, out.cu_seqlens);
  std::copy_n(batch.sample_index, batch.batch, out.sample_index);
  std::copy_n(batch.speed, batch.batch, out.speed);
  std::copy_n(batch.history, 2 * batch.batch, out.history);
  out.counts[0] = static_cast<int32_t>(batch.batch);
  out.counts[1] = static_cast<int32_t>(batch.tokens);
  return 0;
}

const char* depth_graph_unsupported() { return "a stand-in has no graphs"; }
int make_depth_graph(const DepthStage*, int64_t, int, void**) { return 1; }
int launch_depth_graph(void*, int, void*) { return 1; }
int destroy_depth_graph(void*) { return 0; }

std::string kernels_unavailable(int) { return {}; }
std::string error_in_words(int) { return "a stand-in"; }

}  // namespace fastbert::cuda

extern "C" {

[[gnu::visibility("default")]] int64_t count_launches() { return launches; }

// A table by which the module takes the tensors of torch's own table for those of a GPU.
[[gnu::visibility("default")]] const dlpack::ExchangeTable* table_on_gpu(const dlpack::ExchangeTable* of_torch) {
  static dlpack::ExchangeTable table;
  table = *of_torch;
  view_of_torch = of_torch->view;
  table.view = view_on_gpu;
  table.current_stream = no_stream;
  return &table;
}
}
