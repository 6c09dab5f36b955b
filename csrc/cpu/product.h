// A product shared out among threads.
#pragma once
#include "cpu/kernels.h"

namespace fastbert::cpu {

// All rows and columns of a product, in pieces of some rows and one panel.
void share_product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, int64_t count);

}  // namespace fastbert::cpu
