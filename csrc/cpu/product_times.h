// How long products take here, one way beside another.
#pragma once
#include <cstdint>
#include <vector>

#include "dtype.h"

namespace fastbert::cpu {

// Rows of `rows` (float32 or bfloat16) times weights packed for `operand`, as an encoder layer multiplies them.
struct ProductWay {
  DType rows, operand;
};

// CPU seconds of one thread.
struct ProductTime {
  double prepare;   // of one element of a row: quantised or widened, once for all columns; 0 where it is taken as it is
  double multiply;  // of one multiply-add
};

// The least of `rounds` measurements of each way, at rows of `depth` elements. The ways take turns, so that what disturbs one
// disturbs all. Takes about a millisecond per round and thousand elements.
std::vector<ProductTime> time_products(const std::vector<ProductWay>& ways, int64_t depth, int rounds);

}  // namespace fastbert::cpu
