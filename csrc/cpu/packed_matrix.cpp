#include "packed_matrix.h"

#include <stdexcept>

#include "cpu/kernels.h"

namespace fastbert::cpu {

DType product_operand(DType rows, int64_t depth) { return kernels().product_operand(rows, depth); }

int64_t packed_matrix_bytes(int64_t outputs, int64_t depth, DType operand) {
  const bool bfloat16_products = product_operand(DType::bfloat16, 2) == DType::bfloat16;
  if (operand == DType::float16 || (operand == DType::bfloat16 && !bfloat16_products))
    throw std::invalid_argument("this processor has no products in that dtype; pack weights in float32 or int8");
  return kernels().packed_matrix_bytes(outputs, depth, operand);
}

void pack_matrix(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory) {
  kernels().pack_matrix(weight, bias, matrix, memory);
}

}  // namespace fastbert::cpu
