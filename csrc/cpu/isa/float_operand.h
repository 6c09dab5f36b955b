// Products in float32: of float32 rows, and of 16-bit rows where no instruction multiplies them.
//
// On AVX-512 a tile is 6 x 64: per step of the depth 4 loads of weights and 6 broadcasts feed 24 multiply-adds, so that both
// multiply-add units stay busy while the panel streams from the second-level cache at a fraction of its bandwidth and the
// rows stay in the first. Other vector operands have the same shape.
#pragma once
#include "cpu/isa/panel.h"
#include "cpu/isa/tile_rows.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

class FloatOperand {
 public:
  using Row = float;
  using Weight = float;
  using Sum = float;
  static constexpr int64_t kGroup = 1, kStep = 1, kTileRows = 6;
  static constexpr bool kQuantised = false;

  void run(int64_t rows, const float* a, int64_t stride, const float* panel, int64_t depth, float* out,
           int64_t out_stride) const {
    with_tile_rows<kTileRows>(
        rows, [&](auto tile_rows) { run_tile<decltype(tile_rows)::value>(a, stride, panel, depth, out, out_stride); });
  }

  static float encode(float weight, float) { return weight; }

  static const float* read(const void* values, DType dtype, int64_t count, float* buffer) {
    return as_float(values, dtype, count, buffer);
  }
  static void interleave(const float* const* rows, int64_t count, float* out) {
    if (count == kPanelWidth) {
      std::memcpy(out, rows[0], kPanelWidth * sizeof(float));  // by moves: the compiler knows how much
    } else {
      std::memcpy(out, rows[0], count * sizeof(float));
    }
  }
  static const float* shares(float* values, int64_t count, int64_t, float scale) {
    for (int64_t j = 0; j < count; j += kLanes) {  // the last piece reaches into the padding
      Vector piece;
      std::memcpy(&piece, values + j, sizeof piece);
      piece *= scale;
      std::memcpy(values + j, &piece, sizeof piece);
    }
    return values;
  }

 private:
  static constexpr int64_t kPiece = 256;

  template <int rows>
  static void run_tile(const float* a, int64_t stride, const float* panel, int64_t depth, float* out,
                       int64_t out_stride) {
    // In pieces, whose sums are added up in memory: the rounding errors of one long sum would be twice those of a
    // library's product.
    for (int64_t begin = 0; begin < depth; begin += kPiece) {
      const int64_t end = depth - begin < kPiece ? depth : begin + kPiece;
      Vector sums[rows][kVectors] = {};
      for (int64_t k = begin; k < end; ++k, panel += kPanelWidth) {
        Vector weights[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) std::memcpy(&weights[j], panel + j * kLanes, sizeof(Vector));
#pragma GCC unroll 6
        for (int r = 0; r < rows; ++r) {
          const float value = a[r * stride + k];
#pragma GCC unroll 4
          for (int j = 0; j < kVectors; ++j) sums[r][j] += value * weights[j];
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          float* to = out + r * out_stride + j * kLanes;
          if (begin > 0) {
            Vector before;
            std::memcpy(&before, to, sizeof before);
            sums[r][j] += before;
          }
          std::memcpy(to, &sums[r][j], sizeof(Vector));
        }
      }
    }
  }
};

// 16-bit rows times float32 weights: rows are converted piece by piece, in the first-level cache.
template <DType dtype>
class ConvertedOperand {
 public:
  using Row = uint16_t;
  using Weight = float;
  using Sum = float;
  static constexpr int64_t kGroup = 1, kStep = 1, kTileRows = FloatOperand::kTileRows;
  static constexpr bool kQuantised = false;

  void run(int64_t rows, const uint16_t* a, int64_t stride, const float* panel, int64_t depth, float* out,
           int64_t out_stride) const {
    alignas(64) float values[kTileRows * kPiece];
    alignas(64) float part[kTileRows * kPanelWidth];
    for (int64_t k = 0; k < depth; k += kPiece) {
      const int64_t length = depth - k < kPiece ? depth - k : kPiece;
      for (int64_t r = 0; r < rows; ++r) as_float(a + r * stride + k, dtype, length, values + r * kPiece);
      if (k == 0) {
        FloatOperand().run(rows, values, kPiece, panel, length, out, out_stride);
        continue;
      }
      FloatOperand().run(rows, values, kPiece, panel + k * kPanelWidth, length, part, kPanelWidth);
      for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
        for (int64_t c = 0; c < kPanelWidth; ++c) out[r * out_stride + c] += part[r * kPanelWidth + c];
      }
    }
  }

 private:
  static constexpr int64_t kPiece = 256;
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
