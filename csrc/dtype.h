// Element types that kernels accept.
#pragma once
#include <cstdint>

#include "named.h"

namespace fastbert {

enum class DType : int32_t { float32, bfloat16, float16, int8 };

inline constexpr Named<DType> kDTypeNames[] = {
    {"float32", DType::float32}, {"bfloat16", DType::bfloat16}, {"float16", DType::float16}, {"int8", DType::int8}};
constexpr const auto& names_of(DType) { return kDTypeNames; }

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
