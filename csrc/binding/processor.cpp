// What the CPU kernels found out about the processor.
#include <string>
#include <utility>

#include "binding/functions.h"
#include "cpu/kernels.h"

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

// Name of the operand -> depth of the product -> the fewest rows that tile registers multiply; None without these.
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

}  // namespace

void bind_processor(py::module_& module) {
  module.def("cpu_instruction_set", [] { return cpu::kernels().name; });
  module.def("cpu_instruction_sets", &cpu_instruction_sets);
  module.def("cpu_tile_rows", &cpu_tile_rows);
}

}  // namespace fastbert::binding
