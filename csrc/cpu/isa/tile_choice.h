// From how many rows on tiles multiply faster than vectors do: measured on the machine at hand.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace fastbert::cpu::FASTBERT_ISA {

// Of products with rows of `depth` elements of a tile operand, bfloat16 or int8. The first call takes some milliseconds. The
// environment variable FASTBERT_TILE_ROWS takes the place of the measurement. 0 where this thread has no tiles.
int64_t fewest_tile_rows(DType operand, int64_t depth);

}  // namespace fastbert::cpu::FASTBERT_ISA
