#include "padded_texts.h"

#include <pybind11/stl.h>

#include <optional>
#include <tuple>

#include "binding/functions.h"
#include "binding/tensor.h"

namespace fastbert::binding {
namespace {

constexpr int64_t kFewIds = 1 << 16;  // for which to hand over the interpreter's lock would take as long as the work

// Arguments as of ops.pack_texts, with room for its results behind the tensors. Returns the number of tokens, or -1.
int64_t pack_texts(const Tensor& input_ids, const std::optional<Tensor>& attention_mask,
                   const std::optional<Tensor>& token_type_ids,
                   const std::tuple<Tensor, Tensor, std::optional<Tensor>, Tensor>& out, int64_t vocabulary,
                   int64_t num_segments, int64_t uncounted) {
  const auto [batch, length] = input_ids.sizes<2>("input_ids");
  const PaddedTexts texts{
      input_ids.checked<const int64_t>("input_ids", {batch, length}, kCpu),
      attention_mask ? attention_mask->checked<const int64_t>("attention_mask", {batch, length}, kCpu) : nullptr,
      token_type_ids ? token_type_ids->checked<const int64_t>("token_type_ids", {batch, length}, kCpu) : nullptr, batch,
      length};
  const auto& [ids, positions, segments, cu_seqlens] = out;
  const PackedTexts packed{ids.checked<int64_t>("out ids", {batch, length}, kCpu),
                           positions.checked<int64_t>("out positions", {batch, length}, kCpu),
                           segments ? segments->checked<int64_t>("out segments", {batch, length}, kCpu) : nullptr,
                           cu_seqlens.checked<int32_t>("out cu_seqlens", {batch + 1}, kCpu)};
  std::optional<py::gil_scoped_release> released;
  if (batch * length > kFewIds) released.emplace();
  return cpu::pack(texts, {vocabulary, num_segments, uncounted}, packed);
}

}  // namespace

void bind_pack_texts(py::module_& module) {
  using namespace py::literals;
  module.def("pack_texts", &pack_texts, "input_ids"_a, "attention_mask"_a, "token_type_ids"_a, "out"_a, py::kw_only(),
             "vocabulary"_a, "num_segments"_a, "uncounted"_a);
}

}  // namespace fastbert::binding
