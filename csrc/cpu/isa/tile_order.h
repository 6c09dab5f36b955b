// bfloat16 products by float32 multiply-adds, rounded exactly as the tile instruction (tile_operand.h) rounds: that the number
// of a batch's rows, by which tiles or vectors are taken, does not change one bit of any row.
//
//   sum = 0;  for every 32 values of the depth:  sum += (products at even places, one after another) + (those at odd ones)
//
// TDPBF16PS in Intel's manual, with numbers below the smallest normal one taken for 0 and turned to 0.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "cpu/isa/bfloat16_format.h"
#include "cpu/isa/panel.h"
#include "cpu/isa/tile_rows.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

// While it lives, this thread has 0 for numbers below the smallest normal one.
class FlushToZero {
 public:
#if defined(__SSE__)
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlush | kTakenForZero); }
  ~FlushToZero() { _mm_setcsr(before_); }
#else
  FlushToZero() {}
#endif
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

 private:
#if defined(__SSE__)
  static constexpr unsigned kFlush = 1u << 15, kTakenForZero = 1u << 6;
  unsigned before_;
#endif
};

class TileOrderOperand : public Bfloat16Format {
 public:
  static constexpr int64_t kTileRows = 2, kStep = kGroup;

  void run(int64_t rows, const uint16_t* a, int64_t stride, const uint16_t* panel, int64_t depth, float* out,
           int64_t out_stride) const {
    with_tile_rows<kTileRows>(rows, [&](auto tile_rows) {
      for (int64_t column = 0; column < kPanelWidth; column += kColumns)
        run_tile<decltype(tile_rows)::value>(a, stride, panel + 2 * column, depth, out + column, out_stride);
    });
  }

 private:
  static constexpr int64_t kBlock = 32;  // values of a row that one instruction of the tiles takes
  static constexpr int kStrip = 4;
  static constexpr int64_t kColumns = kStrip * kLanes;
  static_assert(kPanelWidth % kColumns == 0);

  static Vector as_floats(IntVector bits) { return reinterpret_cast<Vector>(bits); }

  template <int rows>
  static void run_tile(const uint16_t* a, int64_t stride, const uint16_t* panel, int64_t depth, float* out,
                       int64_t out_stride) {
    constexpr int32_t kHigh = static_cast<int32_t>(0xffff0000);
    Vector sums[rows][kStrip] = {};
    for (int64_t begin = 0; begin < depth; begin += kBlock) {
      const int64_t end = depth - begin < kBlock ? depth : begin + kBlock;
      Vector even[rows][kStrip] = {}, odd[rows][kStrip] = {};
      for (int64_t k = begin; k < end; k += 2, panel += 2 * kPanelWidth) {
        Vector low[rows], high[rows];
#pragma GCC unroll 2
        for (int r = 0; r < rows; ++r) {
          int32_t pair;
          std::memcpy(&pair, a + r * stride + k, sizeof pair);
          const IntVector pairs = IntVector{} + pair;
          low[r] = as_floats(pairs << 16);
          high[r] = as_floats(pairs & kHigh);
        }
#pragma GCC unroll 4
        for (int j = 0; j < kStrip; ++j) {
          IntVector pairs;
          std::memcpy(&pairs, panel + 2 * j * kLanes, sizeof pairs);
          const Vector low_weights = as_floats(pairs << 16), high_weights = as_floats(pairs & kHigh);
#pragma GCC unroll 2
          for (int r = 0; r < rows; ++r) {
            even[r][j] += low[r] * low_weights;
            odd[r][j] += high[r] * high_weights;
          }
        }
      }
#pragma GCC unroll 2
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < kStrip; ++j) sums[r][j] += even[r][j] + odd[r][j];
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kStrip; ++j) std::memcpy(out + r * out_stride + j * kLanes, &sums[r][j], sizeof(Vector));
  }

  FlushToZero mode_;
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
