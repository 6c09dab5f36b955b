// What the CPU kernels found out about the processor.
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "binding/functions.h"
#include "binding/names.h"
#include "cpu/kernels.h"
#include "cpu/product_times.h"

namespace fastbert::binding {
namespace py = pybind11;
namespace {

// Name of each instruction set -> "in use", "available", or why it is neither.
py::dict cpu_instruction_sets() {
  py::dict states;
  for (const cpu::InstructionSet& set : cpu::instruction_sets())
    states[set.name] = set.missing ? set.missing : set.name == cpu::kernels().name ? "in use" : "available";
  return states;
}

// Name of the operand -> depth of the product -> the fewest rows that tile registers multiply; None without these
// (in this thread).
py::object cpu_tile_rows() {
  const cpu::Kernels& set = cpu::kernels();
  if (set.fewest_tile_rows(DType::int8, 64) == 0) return py::none();
  py::dict operands;
  for (const auto& [name, operand] : {std::pair{"bfloat16", DType::bfloat16}, std::pair{"int8", DType::int8}}) {
    py::dict rows;
    for (int64_t depth : {64, 256, 1024}) rows[py::str(std::to_string(depth))] = set.fewest_tile_rows(operand, depth);
    operands[name] = rows;
  }
  return operands;
}

// ways: (dtype of the rows, operand) each; returns (prepare, multiply) of each, in seconds.
std::vector<std::pair<double, double>> time_products(const std::vector<std::pair<ByName<DType>, ByName<DType>>>& names,
                                                     int64_t depth, int rounds) {
  std::vector<cpu::ProductWay> ways;
  for (const auto& [rows, operand] : names) {
    if (rows.value != DType::float32 && rows.value != DType::bfloat16)
      throw py::value_error("rows are timed in float32 and in bfloat16");
    if (operand.value == DType::bfloat16 && rows.value != DType::bfloat16)
      throw py::value_error("rows must be bfloat16 for weights packed in bfloat16");
    ways.push_back({rows, operand});
  }
  if (depth < 1 || rounds < 1) throw py::value_error("products have a depth and are timed in rounds, each at least 1");
  std::vector<std::pair<double, double>> times;
  const py::gil_scoped_release release;
  for (const auto& [prepare, multiply] : cpu::time_products(ways, depth, rounds)) times.emplace_back(prepare, multiply);
  return times;
}

}  // namespace

void bind_processor(py::module_& module) {
  module.def("cpu_instruction_set", [] { return cpu::kernels().name; });
  module.def("cpu_instruction_sets", &cpu_instruction_sets);
  module.def("cpu_tile_rows", &cpu_tile_rows);
  module.def("time_products", &time_products);
}

}  // namespace fastbert::binding
