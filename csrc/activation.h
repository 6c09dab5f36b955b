// Activations of exit heads. The values are part of the binding's contract with fastbert_kernels/ops/library.py.
#pragma once
#include <cstdint>

namespace fastbert {

enum class Activation : int32_t { identity = 0, tanh = 1, relu = 2, gelu = 3 };  // gelu by the error function

}  // namespace fastbert
