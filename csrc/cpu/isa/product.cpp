// Products of activations with packed matrices: packing, the loop over tiles, and what is done to a tile's sums while
// they are in the first-level cache.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"
#include "cpu/isa/tile.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

inline int64_t group_size(DType operand) { return operand == DType::int8 ? 4 : operand == DType::bfloat16 ? 2 : 1; }

// The parts of a packed matrix (packed_matrix.h).
struct Layout {
  int64_t columns;     // N rounded up to whole panels
  int64_t depth;       // K rounded up to whole groups
  int64_t panel_size;  // in elements
  const char* panels;
  const float* bias;
  const float* scale;
  const int32_t* sum;
};

inline Layout layout_of(const PackedMatrix& matrix) {
  const int64_t columns = round_up(matrix.outputs, kPanelWidth);
  const int64_t depth = round_up(matrix.depth, group_size(matrix.operand));
  const int64_t element = matrix.operand == DType::int8 ? 1 : matrix.operand == DType::bfloat16 ? 2 : 4;
  const char* panels = static_cast<const char*>(matrix.memory);
  const auto* bias = reinterpret_cast<const float*>(panels + columns * depth * element);
  return {columns,
          depth,
          depth * kPanelWidth,
          panels,
          bias,
          bias + columns,
          reinterpret_cast<const int32_t*>(bias + 2 * columns)};
}

// Per output channel, symmetrically: W[n, k] = scale[n] * panel value.
float channel_scale(const float* row, int64_t count) {
  float largest = 0.0f;
  for (int64_t k = 0; k < count; ++k) {
    const float magnitude = row[k] < 0.0f ? -row[k] : row[k];
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest > 0.0f ? largest / 127.0f : 1.0f;
}

inline void finish_row(const Layout& layout, const ProductOutput& output, int64_t row, int64_t column, int64_t columns,
                       float* values) {
  const float* bias = layout.bias + column;
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
  store_as(out + index * (output.dtype == DType::float32 ? 4 : 2), output.dtype, values, columns);
}

// Its lines are on their way while the tile is computed: pieces of rows follow no pattern that the processor guesses.
inline void prefetch_output(const ProductOutput& output, int64_t row, int64_t rows, int64_t panel) {
  for (int64_t r = row; r < row + rows; ++r) {
    prefetch<1>(element_at(output.values, output.dtype, r * output.stride + panel * kPanelWidth), output.dtype,
                kPanelWidth);
    if (output.residual)
      prefetch<0>(element_at(output.residual, output.residual_dtype, r * output.residual_stride + panel * kPanelWidth),
                  output.residual_dtype, kPanelWidth);
  }
}

// The rows of the next tile, on their way while this one is computed, when they are met for the first time.
inline void prefetch_rows(const ProductRows& rows, int64_t begin, int64_t end, int64_t depth) {
  const DType dtype = rows.dtype == DType::float32 ? DType::float32 : DType::bfloat16;  // by size
  const int64_t count = rows.dtype == DType::int8 ? depth / 2 : depth;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = rows.dtype == DType::int8 ? row * rows.stride / 2 : row * rows.stride;
    prefetch<0>(element_at(rows.values, dtype, first), dtype, count);
  }
}

inline void finish_tile(const Layout& layout, const ProductOutput& output, int64_t row, int64_t rows, int64_t panel,
                        int64_t outputs, float* sums) {
  const int64_t column = panel * kPanelWidth;
  for (int64_t r = 0; r < rows; ++r) {
    float* values = sums + r * kPanelWidth;
    if (outputs - column >= kPanelWidth) {
      finish_row(layout, output, row + r, column, kPanelWidth, values);  // a count that the compiler knows
    } else {
      finish_row(layout, output, row + r, column, outputs - column, values);
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

// 16-bit rows where no instruction multiplies them: converted piece by piece, in the first-level cache.
inline void product_of_converted(const ProductRows& rows, int64_t row, int64_t count, const float* panel, int64_t depth,
                                 float* sums) {
  constexpr int64_t kPiece = 256;
  alignas(64) float values[kTileRows * kPiece];
  alignas(64) float part[kTileRows * kPanelWidth];
  for (int64_t k = 0; k < depth; k += kPiece) {
    const int64_t length = depth - k < kPiece ? depth - k : kPiece;
    for (int64_t r = 0; r < count; ++r)
      as_float(element_at(rows.values, rows.dtype, (row + r) * rows.stride + k), rows.dtype, length,
               values + r * kPiece);
    run_tile<FloatTile>(count, values, kPiece, panel + k * kPanelWidth, length, k > 0 ? part : sums, kPanelWidth);
    if (k > 0) {
#pragma omp simd
      for (int64_t i = 0; i < count * kPanelWidth; ++i) sums[i] += part[i];
    }
  }
}

}  // namespace

void pack_matrix(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory) {
  const Layout layout = layout_of(matrix);
  const int64_t group = group_size(matrix.operand);
  std::memset(memory, 0, reinterpret_cast<const char*>(layout.bias) - layout.panels);
  auto* biases = const_cast<float*>(layout.bias);
  std::memset(biases, 0, layout.columns * (matrix.operand == DType::int8 ? 12 : 4));
  for (int64_t n = 0; n < matrix.outputs; ++n) {
    const float* row = weight + n * matrix.depth;
    const int64_t first = n / kPanelWidth * layout.panel_size + n % kPanelWidth * group;
    const auto index = [&](int64_t k) { return first + k / group * group * kPanelWidth + k % group; };
    biases[n] = bias[n];
    if (matrix.operand == DType::float32) {
      for (int64_t k = 0; k < matrix.depth; ++k) static_cast<float*>(memory)[index(k)] = row[k];
    } else if (matrix.operand == DType::bfloat16) {
      for (int64_t k = 0; k < matrix.depth; ++k) static_cast<uint16_t*>(memory)[index(k)] = to_bfloat16(row[k]);
    } else {
      const float scale = channel_scale(row, matrix.depth);
      int32_t sum = 0;
      for (int64_t k = 0; k < matrix.depth; ++k) {
        const auto value = static_cast<int8_t>(__builtin_rintf(row[k] / scale));
        static_cast<int8_t*>(memory)[index(k)] = value;
        sum += value;
      }
      const_cast<float*>(layout.scale)[n] = scale;
      const_cast<int32_t*>(layout.sum)[n] = sum;
    }
  }
}

void product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, Range row_range,
             Range panel_range) {
  const Layout layout = layout_of(matrix);
  alignas(64) float sums[kTileRows * kPanelWidth];
  for (int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
    for (int64_t row = row_range.begin; row < row_range.end; row += kTileRows) {
      const int64_t count = row_range.end - row < kTileRows ? row_range.end - row : kTileRows;
      const int64_t first = panel * layout.panel_size;
      prefetch_output(output, row, count, panel);
      if (panel == panel_range.begin) {
        const int64_t next = row + count, behind = next + kTileRows < row_range.end ? next + kTileRows : row_range.end;
        prefetch_rows(rows, next, behind, matrix.depth);
      }
      if (matrix.operand == DType::int8) {
        alignas(64) int32_t integers[kTileRows * kPanelWidth];
        run_tile<Int8Tile>(count, static_cast<const uint8_t*>(rows.values) + row * rows.stride, rows.stride,
                           reinterpret_cast<const int8_t*>(layout.panels) + first, layout.depth, integers, kPanelWidth);
        for (int64_t r = 0; r < count; ++r)
          dequantise_row(integers + r * kPanelWidth, rows.scale[row + r], rows.shift[row + r],
                         layout.scale + panel * kPanelWidth, layout.sum + panel * kPanelWidth, sums + r * kPanelWidth);
#ifdef __AVX512BF16__
      } else if (matrix.operand == DType::bfloat16) {
        run_tile<Bfloat16Tile>(count, static_cast<const uint16_t*>(rows.values) + row * rows.stride, rows.stride,
                               reinterpret_cast<const uint16_t*>(layout.panels) + first, layout.depth, sums,
                               kPanelWidth);
#endif
      } else if (rows.dtype == DType::float32) {
        run_tile<FloatTile>(count, static_cast<const float*>(rows.values) + row * rows.stride, rows.stride,
                            reinterpret_cast<const float*>(layout.panels) + first, layout.depth, sums, kPanelWidth);
      } else {
        product_of_converted(rows, row, count, reinterpret_cast<const float*>(layout.panels) + first, layout.depth,
                             sums);
      }
      finish_tile(layout, output, row, count, panel, matrix.outputs, sums);
    }
  }
}

}  // namespace fastbert::cpu::FASTBERT_ISA
