// A product shared out among the threads of the parallel region it is called from.
#pragma once
#include "cpu/kernels.h"

namespace fastbert::cpu {

// All rows and columns of a product, in pieces of some rows and one panel. Every thread of the region calls it, and none
// returns before all are done.
void share_product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, int64_t count);

}  // namespace fastbert::cpu
