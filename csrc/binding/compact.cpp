#include "compact.h"

#include "binding/functions.h"
#include "binding/native_call.h"
#include "binding/tensor.h"
#include <pybind11/stl.h>

namespace fastbert::binding {
namespace {

// Arguments as of ops.compact, then its outputs, uninitialised.
void compact(const Tensor& hidden, const Tensor& cu_seqlens, const Tensor& keep, const Tensor& sample_index,
             const Tensor& speed, const Tensor& history, const Tensor& logits, const Tensor& uncertainty, int64_t layer,
             const Tensor& out_logits, const Tensor& out_uncertainty, const Tensor& out_exit_layer,
             const Compacted& compacted) {
  const Device device = hidden.device("hidden");
  const auto [tokens, width] = hidden.sizes<2>("hidden");
  const auto [samples] = keep.sizes<1>("keep");
  const auto [original, labels] = out_logits.sizes<2>("out_logits");
  const PackedBatch batch{hidden.checked("hidden", {tokens, width}, device),
                          cu_seqlens.checked<const int32_t>("cu_seqlens", {samples + 1}, device),
                          reinterpret_cast<const uint8_t*>(keep.checked<const bool>("keep", {samples}, device)),
                          sample_index.checked<const int32_t>("sample_index", {samples}, device),
                          speed.checked<const float>("speed", {samples}, device),
                          history.checked<const int32_t>("history", {samples, 2}, device),
                          logits.checked<const float>("logits", {samples, labels}, device),
                          uncertainty.checked<const float>("uncertainty", {samples}, device),
                          samples,
                          tokens,
                          width * hidden.element_bytes(),
                          labels,
                          layer};
  const Results results{out_logits.checked<float>("out_logits", {original, labels}, device),
                        out_uncertainty.checked<float>("out_uncertainty", {original}, device),
                        out_exit_layer.checked<int64_t>("out_exit_layer", {original}, device), original};
  const CompactedBatch out = checked_compacted(compacted, hidden, samples);
#ifdef FASTBERT_WITH_CUDA
  if (device.type == dlpack::kCuda)
    return check_cuda(cuda::compact(batch, out, results, device.index, current_stream(device)), "compact");
#endif
  check_on_cpu("hidden", device);
  const NativeCall call;
  check_cu_seqlens(batch.cu_seqlens, samples, tokens);
  check_indices("sample_index", batch.sample_index, samples, original);
  cpu::compact(batch, out, results);
}

}  // namespace

CompactedBatch checked_compacted(const Compacted& compacted, const Tensor& hidden, int64_t samples) {
  const Device device = hidden.device("hidden");
  const auto [tokens, width] = hidden.sizes<2>("hidden");
  const auto& [rows, bounds, index, speeds, histories, counts] = compacted;
  rows.check_same_dtype("compacted hidden", hidden);
  return {rows.checked("compacted hidden", {tokens, width}, device),
          bounds.checked<int32_t>("compacted cu_seqlens", {samples + 1}, device),
          index.checked<int32_t>("compacted sample_index", {samples}, device),
          speeds.checked<float>("compacted speed", {samples}, device),
          histories.checked<int32_t>("compacted history", {samples, 2}, device),
          counts.checked<int32_t>("counts", {2}, device)};
}

void bind_compact(py::module_& module) { module.def("compact", &compact); }

}  // namespace fastbert::binding
