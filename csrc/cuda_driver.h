// Launches of kernels that somebody else has loaded, by the CUDA driver that the process has loaded, if it has. Nothing of
// CUDA is needed to build this, and nothing of it is initialised here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace fastbert::cuda_driver {

// A kernel of one dimension of threads, whose launch has no attributes.
struct Kernel {
  void* function;  // CUfunction
  uint32_t threads;
  uint32_t shared_bytes;
};

// A parameter of a kernel: its bits, the first byte first, as many of them as the kernel has for it.
struct Parameter {
  uint64_t bits;
};

// The context that is current in this thread (CUcontext); nullptr where there is none, or no driver.
void* current_context();

// In the current context, with all parameters of the kernel in their order. Returns a CUresult, 0 for success.
int launch(const Kernel& kernel, uint32_t blocks, void* stream, const Parameter* parameters, size_t count);

// A CUresult in the driver's words.
std::string error_in_words(int status);

}  // namespace fastbert::cuda_driver
