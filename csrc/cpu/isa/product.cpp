// Products of activations with packed matrices: the loop over tiles, and what is done to a tile's sums while they are in the
// first-level cache.
#include "cpu/isa/functions.h"
#include "cpu/isa/operand.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

inline void finish_row(const ProductOutput& output, const float* bias, int64_t row, int64_t column, int64_t columns,
                       float* values) {
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) values[c] += bias[c];
  if (output.epilogue == Epilogue::gelu) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) values[c] = gelu_one(values[c]);
  } else if (output.epilogue == Epilogue::relu) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) values[c] = values[c] < 0.0f ? 0.0f : values[c];  // NaN stays NaN
  }
  if (output.residual) {
    float buffer[kPanelWidth];
    const void* at = element_at(output.residual, output.residual_dtype, row * output.residual_stride + column);
    const float* residual = as_float(at, output.residual_dtype, columns, buffer);
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) values[c] += residual[c];
  }
  char* out = static_cast<char*>(output.values);
  const int64_t index = row * output.stride + column;
  store_as(out + index * element_bytes(output.dtype), output.dtype, values, columns);
}

// Its lines are on their way while the tile is computed: pieces of rows follow no pattern that the processor guesses.
inline void prefetch_output(const ProductOutput& output, int64_t row, int64_t rows, int64_t panel) {
  for (int64_t r = row; r < row + rows; ++r) {
    prefetch<1>(element_at(output.values, output.dtype, r * output.stride + panel * kPanelWidth),
                kPanelWidth * element_bytes(output.dtype));
    if (output.residual)
      prefetch<0>(element_at(output.residual, output.residual_dtype, r * output.residual_stride + panel * kPanelWidth),
                  kPanelWidth * element_bytes(output.residual_dtype));
  }
}

// `bias` is that of the panel.
inline void finish_tile(const ProductOutput& output, const float* bias, int64_t row, int64_t rows, int64_t panel,
                        int64_t outputs, float* sums) {
  const int64_t column = panel * kPanelWidth;
  for (int64_t r = 0; r < rows; ++r) {
    float* values = sums + r * kPanelWidth;
    if (outputs - column >= kPanelWidth) {
      finish_row(output, bias, row + r, column, kPanelWidth, values);  // a count that the compiler knows
    } else {
      finish_row(output, bias, row + r, column, outputs - column, values);
    }
  }
}

// sums = scale_row scale_column (integer sums - shift_row sum_column)
inline void dequantise_row(const int32_t* integers, float scale, int32_t shift, const float* column_scale,
                           const int32_t* column_sum, float* sums) {
#pragma omp simd
  for (int c = 0; c < kPanelWidth; ++c)
    sums[c] = static_cast<float>(integers[c] - shift * column_sum[c]) * (scale * column_scale[c]);
}

template <class Operand>
void multiply(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, Range row_range,
              Range panel_range) {
  using Row = typename Operand::Row;
  constexpr int64_t kTileRows = Operand::kTileRows;
  const Panels<Operand> panels(matrix);
  const auto* values = static_cast<const Row*>(rows.values);
  const int64_t stride = Operand::kQuantised ? rows.stride / static_cast<int64_t>(sizeof(Row)) : rows.stride;
  Operand operand;
  alignas(64) typename Operand::Sum sums[kTileRows * kPanelWidth];
  for (int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
    const int64_t first = panel * kPanelWidth;
    for (int64_t row = row_range.begin; row < row_range.end; row += kTileRows) {
      const int64_t count = row_range.end - row < kTileRows ? row_range.end - row : kTileRows;
      prefetch_output(output, row, count, panel);
      operand.run(count, values + row * stride, stride, panels.panel(panel), panels.depth(), sums, kPanelWidth);
      if constexpr (Operand::kQuantised) {
        alignas(64) float dequantised[kTileRows * kPanelWidth];
        for (int64_t r = 0; r < count; ++r)
          dequantise_row(sums + r * kPanelWidth, rows.scale[row + r], rows.shift[row + r], panels.scale() + first,
                         panels.sum() + first, dequantised + r * kPanelWidth);
        finish_tile(output, panels.bias() + first, row, count, panel, matrix.outputs, dequantised);
      } else {
        finish_tile(output, panels.bias() + first, row, count, panel, matrix.outputs, sums);
      }
    }
  }
}

}  // namespace

DType product_operand(DType rows, int64_t depth) {
  return kHasBfloat16Products && rows == DType::bfloat16 && depth % 2 == 0 ? DType::bfloat16 : DType::float32;
}

int64_t product_tile_rows(DType operand) {
  return with_packed_operand(operand, [](auto chosen) { return decltype(chosen)::type::kTileRows; });
}

void product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, Range row_range,
             Range panel_range) {
  with_product_operand(matrix.operand, rows.dtype, [&](auto chosen) {
    multiply<typename decltype(chosen)::type>(matrix, rows, output, row_range, panel_range);
  });
}

}  // namespace fastbert::cpu::FASTBERT_ISA
