// A launch of an element-wise Triton kernel that is done again for other tensors of the same kind, in one native call
// instead of Triton's dispatch in Python. fastbert_kernels/triton/kept.py makes them, and knows when they may be.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "binding/functions.h"
#include "cuda_driver.h"

namespace fastbert::binding {
namespace {

constexpr uintptr_t kAlignment = 16;  // of every address that Triton found divisible by it
constexpr size_t kMostTensors = 8;
constexpr size_t kMostNumbers = 2;

// The kernel's parameters: addresses of tensors, the number of rows as int32, numbers as float32, and two addresses of
// scratch memory that it does not have.
class KeptLaunch {
 public:
  // `owner` keeps the function loaded. Of the tensors, whose device is the current one, the first is [rows, columns], the
  // others are [rows, any number] or [any number]; a block has `block_rows` of the rows, and `across` blocks have all
  // columns of the first.
  KeptLaunch(py::object owner, uintptr_t function, uint32_t threads, uint32_t shared_bytes, int64_t block_rows,
             int64_t across, const std::vector<Tensor>& tensors)
      : owner_(std::move(owner)),
        kernel_{reinterpret_cast<void*>(function), threads, shared_bytes},
        block_rows_(block_rows),
        across_(across),
        context_(cuda_driver::current_context()) {
    if (tensors.empty() || tensors.size() > kMostTensors) throw py::value_error("one to eight tensors are taken");
    if (block_rows < 1 || across < 1) throw py::value_error("a block has one row or more");
    for (const Tensor& tensor : tensors) kinds_.push_back(tensor.kind("a tensor of a kept launch"));
    if (kinds_[0].dimensions != 2) throw py::value_error("the first tensor must have rows");
  }

  // Launches on torch's current stream, where all of this is as it was: dtypes, device and columns of the tensors, the
  // current context, addresses that 16 divides, a number of rows of 32 bits. False where it is not.
  bool launch(const py::tuple& tensors, const py::tuple& numbers) const {
    if (tensors.size() != kinds_.size() || numbers.size() > kMostNumbers) return false;
    std::array<cuda_driver::Parameter, kMostTensors + kMostNumbers + 3> parameters = {};
    size_t count = 0;
    int64_t rows = 0;
    for (const py::handle object : tensors) {
      const TensorKind& kind = kinds_[count];
      const TensorOfKind found = Tensor(object).of_kind(kind);
      const auto address = reinterpret_cast<uintptr_t>(found.memory);
      if (address == 0 || address % kAlignment != 0) return false;
      if (count == 0) rows = found.rows;
      if (kind.dimensions == 2 && found.rows != rows) return false;
      parameters[count++].bits = address;
    }
    const int64_t blocks = (rows + block_rows_ - 1) / block_rows_ * across_;
    if (rows < 1 || std::max(rows, blocks) > std::numeric_limits<int32_t>::max()) return false;
    parameters[count++].bits = static_cast<uint64_t>(rows);
    for (const py::handle number : numbers) {
      if (!PyFloat_CheckExact(number.ptr())) return false;  // Triton takes others for another type
      const auto narrowed = static_cast<float>(PyFloat_AS_DOUBLE(number.ptr()));
      std::memcpy(&parameters[count++].bits, &narrowed, sizeof(narrowed));
    }
    count += 2;  // scratch
    if (context_ == nullptr || cuda_driver::current_context() != context_) return false;
    // The interpreter's lock is held: to hand it over would cost more than a launch.
    const int status = cuda_driver::launch(kernel_, static_cast<uint32_t>(blocks), current_stream(kinds_[0].device),
                                           parameters.data(), count);
    if (status != 0)
      throw std::runtime_error("fastbert_kernels: the launch of a Triton kernel failed with CUDA error " +
                               std::to_string(status) + ": " + cuda_driver::error_in_words(status));
    return true;
  }

 private:
  py::object owner_;
  cuda_driver::Kernel kernel_;
  int64_t block_rows_, across_;
  void* context_;
  std::vector<TensorKind> kinds_;
};

}  // namespace

void bind_kept_launch(py::module_& module) {
  py::class_<KeptLaunch>(module, "KeptLaunch")
      .def(py::init<py::object, uintptr_t, uint32_t, uint32_t, int64_t, int64_t, std::vector<Tensor>>())
      .def("launch", &KeptLaunch::launch);
}

}  // namespace fastbert::binding
