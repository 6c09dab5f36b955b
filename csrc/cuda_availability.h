// Whether the CUDA kernels can run on a device, asked before anything is launched there.
#pragma once
#include <string>

namespace fastbert::cuda {

// Why they cannot, with the remedy; empty where they can.
std::string kernels_unavailable(int device);

// A cudaError_t in CUDA's words.
std::string error_in_words(int status);

}  // namespace fastbert::cuda
