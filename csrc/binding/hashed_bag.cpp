#include "hashed_bag.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "binding/functions.h"
#include "binding/heads.h"
#include "binding/native_call.h"

namespace fastbert::binding {
namespace {

// Arguments as of ops.hashed_bag, with ids in int64.
void hashed_bag(const Tensor& table, const Tensor& bias, const Tensor& input_ids, const Tensor& cu_seqlens,
                const Tensor& speed, const DecisionResults& results, ByName<Criterion> criterion, int32_t parameter) {
  const auto [buckets, labels] = table.sizes<2>("table");
  if (buckets < 1 || buckets > int64_t{1} << 31 || (buckets & (buckets - 1)) != 0)
    throw py::value_error("table must have a power of 2 of rows, at most 2^31, not " + std::to_string(buckets));
  const HashedBag bag{table.checked<const float>("table", {buckets, labels}, kCpu),
                      bias.checked<const float>("bias", {labels}, kCpu), buckets, labels};
  const int64_t tokens = input_ids.sizes<1>("input_ids")[0];
  const auto* ids = input_ids.checked<const int64_t>("input_ids", {tokens}, kCpu);
  const int64_t batch = cu_seqlens.sizes<1>("cu_seqlens")[0] - 1;
  const auto* bounds = cu_seqlens.checked<const int32_t>("cu_seqlens", {std::max<int64_t>(batch, 0) + 1}, kCpu);
  const std::optional<Tensor> no_history;  // it is the first head
  const Decision decision = checked_decision({speed, no_history, checked_rule(criterion, parameter)}, batch, kCpu);
  const DecisionOutputs outputs = checked_outputs(results, batch, labels, kCpu);

  const NativeCall call;
  check_cu_seqlens(bounds, batch, tokens);
  cpu::hashed_bag(ids, bounds, batch, bag, decision, outputs);
}

}  // namespace

void bind_hashed_bag(py::module_& module) {
  using namespace py::literals;
  module.def("hashed_bag", &hashed_bag, "table"_a, "bias"_a, "input_ids"_a, "cu_seqlens"_a, "speed"_a, "results"_a,
             "criterion"_a, "parameter"_a);
}

}  // namespace fastbert::binding
