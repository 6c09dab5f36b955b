#include "cpu/product.h"

#include <algorithm>

#include "cpu/threads.h"

namespace fastbert::cpu {
namespace {

// A panel is read once per block of rows: at 192 rows that is a third of a byte per cycle from the last-level cache. More
// rows would no longer fit the second-level cache beside it.
constexpr int64_t kBlockRows = 192;

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace

void share_product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, int64_t count) {
  const Kernels& set = kernels();
  const int64_t panels = divide_up(matrix.outputs, set.panel_width), tile = set.product_tile_rows(matrix.operand);
  const int64_t blocks = std::max<int64_t>(divide_up(count, kBlockRows), 1);
  const int64_t block_rows = divide_up(divide_up(count, blocks), tile) * tile;  // of about one size
  parallel_for(blocks * panels, [&](int64_t piece) {
    const int64_t begin = piece / panels * block_rows, panel = piece % panels;
    set.product(matrix, rows, output, {begin, std::min(begin + block_rows, count)}, {panel, panel + 1});
  });
}

}  // namespace fastbert::cpu
