#include "embeddings.h"

#include <optional>

#include "binding/functions.h"
#include "binding/native_call.h"
#include "binding/names.h"
#include "binding/tensor.h"
#include <pybind11/stl.h>

namespace fastbert::binding {
namespace {

// Arguments as of ops.embed, with ids in int64; then its output, uninitialised.
void embed(const Tensor& input_ids, const Tensor& position_ids, const std::optional<Tensor>& token_type_ids,
           const Tensor& words, const Tensor& positions, const Tensor& segments, const Tensor& norm_weight,
           const Tensor& norm_bias, float layer_norm_eps, ByName<LayerNormKind> layer_norm, const Tensor& out) {
  const auto [count] = input_ids.sizes<1>("input_ids");
  const auto [num_words, width] = words.sizes<2>("words");
  const int64_t num_positions = positions.sizes<2>("positions")[0], num_segments = segments.sizes<2>("segments")[0];
  const TokenIds ids{input_ids.checked<const int64_t>("input_ids", {count}, kCpu),
                     position_ids.checked<const int64_t>("position_ids", {count}, kCpu),
                     token_type_ids ? token_type_ids->checked<const int64_t>("token_type_ids", {count}, kCpu) : nullptr,
                     count};
  const EmbeddingWeights weights{
      words.checked<const float>("words", {num_words, width}, kCpu),
      positions.checked<const float>("positions", {num_positions, width}, kCpu),
      segments.checked<const float>("segments", {num_segments, width}, kCpu),
      {norm_weight.checked<const float>("norm_weight", {width}, kCpu),
       norm_bias.checked<const float>("norm_bias", {width}, kCpu), layer_norm_eps, layer_norm},
      width};
  const DType dtype = out.dtype("out", {DType::float32, DType::bfloat16});
  void* rows = out.checked("out", {count, width}, kCpu);

  const NativeCall call;
  check_indices("input_ids", ids.words, count, num_words);
  check_indices("position_ids", ids.positions, count, num_positions);
  if (ids.segments) check_indices("token_type_ids", ids.segments, count, num_segments);
  if (!ids.segments && count > 0 && num_segments == 0)
    throw py::index_error("segments has no row, but without token_type_ids every token takes row 0");
  cpu::embed(ids, weights, dtype, rows);
}

}  // namespace

void bind_embed(py::module_& module) { module.def("embed", &embed); }

}  // namespace fastbert::binding
