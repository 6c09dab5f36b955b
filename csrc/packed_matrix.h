// A Linear layer X W^T + b whose weights were laid out once for the product kernels of the CPU in use.
//
// Panels of `panel_width` columns of the result, one after another; in a panel the depth comes first, in groups that one
// instruction multiplies at once:
//
//   panels [ceil(N / width)] [ceil(K / group)] [width] [group]     group = 1 for float32, 2 for bfloat16, 4 for int8
//                                                                  (2 where its values take 16 bits each)
//   bias   [ceil(N / width) * width] float32
//   scale  [ceil(N / width) * width] float32, int8 only            W[n, k] = scale[n] * panel value
//   sum    [ceil(N / width) * width] int32, int8 only              over k of the panel values
//
// Columns past N and depths past K are zeros. The layout holds for one run of the program only: the width is that of
// the instruction set chosen at its start.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace fastbert {

struct PackedMatrix {
  const void* memory;  // 64-byte aligned
  int64_t outputs;     // N
  int64_t depth;       // K
  DType operand;       // float32, bfloat16 or int8
};

namespace cpu {
// What rows of dtype `rows` are multiplied in: their own dtype where this processor has instructions for it, else
// float32. An odd depth takes float32 too: bfloat16 products take two values at a time.
DType product_operand(DType rows, int64_t depth);

// Throws std::invalid_argument for an operand that this processor has no products in.
int64_t packed_matrix_bytes(int64_t outputs, int64_t depth, DType operand);

// `weight` [N, K] and `bias` [N] are float32; `memory` has packed_matrix_bytes bytes. int8 values are rounded per output
// channel, symmetrically.
void pack_matrix(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory);
}  // namespace cpu

}  // namespace fastbert
