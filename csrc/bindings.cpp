// Python binding: addresses and sizes in, nothing of torch. fastbert_kernels/ops checks shapes, dtypes and devices
// before it calls.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "compact.h"
#include "cpu/vector_kernels.h"
#include "exit_head.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

#ifdef FASTBERT_WITH_CUDA
void check_cuda(int status, const char* op) {
  if (status != 0)
    throw std::runtime_error(std::string("fastbert_kernels: ") + op + " failed with CUDA error " +
                             std::to_string(status));
}
#endif

fastbert::ExitHeadWeights make_weights(Address projection_weight, Address projection_bias, Address query,
                                       Address query_bias, Address value, Address value_bias, Address output_weight,
                                       Address output_bias) {
  return {at<const void>(projection_weight), at<const float>(projection_bias), at<const float>(query),
          at<const float>(query_bias),       at<const float>(value),           at<const float>(value_bias),
          at<const float>(output_weight),    at<const float>(output_bias)};
}

fastbert::ExitHeadShape make_shape(int64_t tokens, int64_t batch, int64_t hidden_size, int64_t narrow_size,
                                   int64_t num_heads, int64_t num_labels) {
  return {tokens, batch, hidden_size, narrow_size, num_heads, num_labels};
}

fastbert::PackedBatch make_batch(Address hidden, Address cu_seqlens, Address keep, Address sample_index, Address speed,
                                 Address logits, Address uncertainty, int64_t batch, int64_t tokens, int64_t row_bytes,
                                 int64_t num_labels, int64_t layer) {
  return {at<const void>(hidden),
          at<const int32_t>(cu_seqlens),
          at<const uint8_t>(keep),
          at<const int32_t>(sample_index),
          at<const float>(speed),
          at<const float>(logits),
          at<const float>(uncertainty),
          batch,
          tokens,
          row_bytes,
          num_labels,
          layer};
}

fastbert::CompactedBatch make_compacted(Address hidden, Address cu_seqlens, Address sample_index, Address speed,
                                        Address counts) {
  return {at<void>(hidden), at<int32_t>(cu_seqlens), at<int32_t>(sample_index), at<float>(speed), at<int32_t>(counts)};
}

fastbert::Results make_results(Address logits, Address uncertainty, Address exit_layer) {
  return {at<float>(logits), at<float>(uncertainty), at<int64_t>(exit_layer)};
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  using namespace fastbert;

  // Small structs of addresses; whoever builds one keeps the tensors behind it alive.
  py::class_<ExitHeadWeights>(module, "ExitHeadWeights")
      .def(py::init(&make_weights), "projection_weight"_a, "projection_bias"_a, "query"_a, "query_bias"_a, "value"_a,
           "value_bias"_a, "output_weight"_a, "output_bias"_a);
  py::class_<ExitHeadShape>(module, "ExitHeadShape")
      .def(py::init(&make_shape), "tokens"_a, "batch"_a, "hidden_size"_a, "narrow_size"_a, "num_heads"_a,
           "num_labels"_a);
  py::class_<PackedBatch>(module, "PackedBatch")
      .def(py::init(&make_batch), "hidden"_a, "cu_seqlens"_a, "keep"_a, "sample_index"_a, "speed"_a, "logits"_a,
           "uncertainty"_a, "batch"_a, "tokens"_a, "row_bytes"_a, "num_labels"_a, "layer"_a);
  py::class_<CompactedBatch>(module, "CompactedBatch")
      .def(py::init(&make_compacted), "hidden"_a, "cu_seqlens"_a, "sample_index"_a, "speed"_a, "counts"_a);
  py::class_<Results>(module, "Results").def(py::init(&make_results), "logits"_a, "uncertainty"_a, "exit_layer"_a);

  module.def("cpu_instruction_set", [] { return cpu::vector_kernels().name; });
  module.def("exit_head_cpu", [](Address projected, Address cu_seqlens, Address speed, const ExitHeadWeights& weights,
                                 const ExitHeadShape& shape, Address logits, Address uncertainty, Address keep) {
    const py::gil_scoped_release release;
    cpu::exit_head(at<float>(projected), at<const int32_t>(cu_seqlens), at<const float>(speed), weights, shape,
                   {at<float>(logits), at<float>(uncertainty), at<uint8_t>(keep)});
  });
  module.def("compact_cpu", [](const PackedBatch& batch, const CompactedBatch& compacted, const Results& results) {
    const py::gil_scoped_release release;
    cpu::compact(batch, compacted, results);
  });

#ifdef FASTBERT_WITH_CUDA
  module.attr("cuda_version") = FASTBERT_CUDA_VERSION;
  module.attr("cuda_architectures") = FASTBERT_CUDA_ARCHITECTURES;
  module.def("exit_head_cuda_unsupported", [](const ExitHeadShape& shape, int dtype) -> py::object {
    const char* reason = cuda::exit_head_unsupported(shape, static_cast<DType>(dtype));
    return reason ? py::object(py::str(reason)) : py::none();
  });
  module.def("exit_head_cuda", [](Address hidden, int dtype, Address cu_seqlens, Address speed,
                                  const ExitHeadWeights& weights, const ExitHeadShape& shape, Address logits,
                                  Address uncertainty, Address keep, int device, Address stream) {
    check_cuda(
        cuda::exit_head(at<const void>(hidden), static_cast<DType>(dtype), at<const int32_t>(cu_seqlens),
                        at<const float>(speed), weights, shape,
                        {at<float>(logits), at<float>(uncertainty), at<uint8_t>(keep)}, device, at<void>(stream)),
        "exit_head");
  });
  module.def("compact_cuda", [](const PackedBatch& batch, const CompactedBatch& compacted, const Results& results,
                                int device, Address stream) {
    check_cuda(cuda::compact(batch, compacted, results, device, at<void>(stream)), "compact");
  });
#else
  module.attr("cuda_version") = py::none();
  module.attr("cuda_architectures") = py::none();
#endif
}
