// A product shared out among threads.
#pragma once
#include "cpu/kernels.h"

namespace fastbert::cpu {

// From row to row of a product's operand. Rows that are whole kilobytes apart share few sets of the first-level cache, and
// tiles of registers read 16 of them at a time: a cache line between them spreads them out.
inline int64_t spread_bytes(int64_t row_bytes) { return row_bytes % 1024 == 0 ? row_bytes + 64 : row_bytes; }

// All rows and columns of a product, in pieces of some rows and one panel.
void share_product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, int64_t count);

}  // namespace fastbert::cpu
