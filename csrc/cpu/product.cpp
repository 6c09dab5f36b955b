#include "cpu/product.h"

#include <algorithm>

namespace fastbert::cpu {
namespace {

// A panel is read once per block of rows: at 192 rows that is a third of a byte per cycle from the last-level cache. More
// rows would no longer fit the second-level cache beside it.
constexpr int64_t kBlockRows = 192;

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace

DType product_operand(DType rows, int64_t depth) {
  return rows == DType::bfloat16 && depth % 2 == 0 && kernels().has_bfloat16_products ? DType::bfloat16
                                                                                      : DType::float32;
}

int64_t packed_matrix_bytes(int64_t outputs, int64_t depth, DType operand) {
  const int64_t columns = divide_up(outputs, kernels().panel_width) * kernels().panel_width;
  const int64_t group = 4 / element_size(operand);
  const int64_t vectors = operand == DType::int8 ? 3 : 1;  // bias, scale, sum
  return columns * (divide_up(depth, group) * group * element_size(operand) + 4 * vectors);
}

void pack_matrix(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory) {
  kernels().pack_matrix(weight, bias, matrix, memory);
}

void share_product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, int64_t count) {
  const Kernels& set = kernels();
  const int64_t panels = divide_up(matrix.outputs, set.panel_width);
  const int64_t blocks = std::max<int64_t>(divide_up(count, kBlockRows), 1);
  const int64_t block_rows = divide_up(divide_up(count, blocks), set.tile_rows) * set.tile_rows;  // of about one size
#pragma omp for schedule(dynamic)
  for (int64_t piece = 0; piece < blocks * panels; ++piece) {
    const int64_t begin = piece / panels * block_rows, panel = piece % panels;
    set.product(matrix, rows, output, {begin, std::min(begin + block_rows, count)}, {panel, panel + 1});
  }
}

}  // namespace fastbert::cpu
