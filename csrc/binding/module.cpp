// The module fastbert_kernels._C: tensors and names in, checked by C++ itself, and nothing of torch to build against.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "activation.h"
#include "binding/functions.h"
#include "binding/names.h"
#include "binding/native_call.h"
#include "cpu/profile.h"
#include "cuda_availability.h"
#include "decision.h"
#include "dtype.h"
#include "layer_norm.h"
#include "pooled_exit_head.h"

namespace py = pybind11;

#ifdef FASTBERT_WITH_CUDA
void fastbert::binding::check_cuda(int status, const char* op) {
  if (status != 0)
    throw std::runtime_error(std::string("fastbert_kernels: ") + op + " failed with CUDA error " +
                             std::to_string(status) + ": " + cuda::error_in_words(status));
}
#endif

PYBIND11_MODULE(_C, module) {
  using namespace fastbert;
  using namespace fastbert::binding;

  // The names that C++ knows of each enumeration.
  py::dict names;
  names["Activation"] = names_of_all<Activation>();
  names["Criterion"] = names_of_all<Criterion>();
  names["DType"] = names_of_all<DType>();
  names["LayerNormKind"] = names_of_all<LayerNormKind>();
  names["Pooling"] = names_of_all<Pooling>();
  module.attr("names") = names;

  module.def("count_threads_with", &NativeCall::count_threads_with);
  py::register_local_exception_translator(&translate_interrupted);
  module.def("start_profile", [] { cpu::profile() = {true, {}}; });
  module.def("stop_profile", [] {
    py::dict seconds;
    for (size_t i = 0; i < cpu::kPhases; ++i) seconds[cpu::kPhaseNames[i]] = cpu::profile().seconds[i];
    cpu::profile() = {};
    return seconds;
  });
  bind_compact(module);
  bind_embed(module);
  bind_encoder(module);
  bind_hashed_bag(module);
  bind_heads(module);
  bind_kept_launch(module);
  bind_pack_texts(module);
  bind_processor(module);
  bind_unchanged(module);
#ifdef FASTBERT_WITH_CUDA
  module.attr("cuda_version") = FASTBERT_CUDA_VERSION;
  module.attr("cuda_architectures") = FASTBERT_CUDA_ARCHITECTURES;
  module.def("cuda_kernels_unavailable", &cuda::kernels_unavailable);
  bind_cuda_heads(module);
  bind_depth_graph(module);
#else
  module.attr("cuda_version") = py::none();
  module.attr("cuda_architectures") = py::none();
#endif
}
