// Element types that kernels accept. The values are part of the binding's contract with fastbert_kernels/_extension.py.
#pragma once
#include <cstdint>

namespace fastbert {

enum class DType : int32_t { float32 = 0, bfloat16 = 1, float16 = 2, int8 = 3 };

inline int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return 4;
    case DType::bfloat16:
    case DType::float16:
      return 2;
    case DType::int8:
      return 1;
  }
  return 0;
}

}  // namespace fastbert
