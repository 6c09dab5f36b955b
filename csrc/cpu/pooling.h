// Pooling of one sample, which is the beginning of a pooled exit head (pooling.h has the definitions).
#pragma once
#include <cstdint>

#include "../pooling.h"

namespace fastbert::cpu {

// x [H] of the sample with the rows begin .. begin + n; `scratch` holds H floats.
void pool_rows(const void* hidden, DType dtype, int64_t begin, int64_t n, int64_t width, Pooling pooling,
               float* scratch, float* pooled);

}  // namespace fastbert::cpu
