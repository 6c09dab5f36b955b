// What the files of this folder add to the module, and what they share.
#pragma once
#include <pybind11/pybind11.h>

namespace fastbert::binding {

void bind_compact(pybind11::module_& module);
void bind_embed(pybind11::module_& module);
void bind_heads(pybind11::module_& module);
void bind_encoder(pybind11::module_& module);

#ifdef FASTBERT_WITH_CUDA
void bind_depth_graph(pybind11::module_& module);

// RuntimeError for a cudaError_t other than 0.
void check_cuda(int status, const char* op);
#endif

}  // namespace fastbert::binding
