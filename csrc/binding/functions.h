// What the files of this folder add to the module, and what they share.
#pragma once
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>

#include "binding/tensor.h"
#include "compact.h"

namespace fastbert::binding {

void bind_compact(pybind11::module_& module);
void bind_embed(pybind11::module_& module);
void bind_hashed_bag(pybind11::module_& module);
void bind_heads(pybind11::module_& module);
void bind_kept_launch(pybind11::module_& module);
void bind_encoder(pybind11::module_& module);
void bind_pack_texts(pybind11::module_& module);
void bind_processor(pybind11::module_& module);
void bind_unchanged(pybind11::module_& module);

// Room for the survivors of a batch: hidden [T, H], cu_seqlens [B + 1], sample_index [B], speed [B], history [B, 2],
// counts [2].
using Compacted = std::array<Tensor, 6>;
CompactedBatch checked_compacted(const Compacted& compacted, const Tensor& hidden, int64_t samples);

#ifdef FASTBERT_WITH_CUDA
void bind_cuda_heads(pybind11::module_& module);
void bind_depth_graph(pybind11::module_& module);

// RuntimeError for a cudaError_t other than 0.
void check_cuda(int status, const char* op);
#endif

}  // namespace fastbert::binding
