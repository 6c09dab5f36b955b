// Products in bfloat16 with float32 sums, by the processor's instruction for them: two values of the depth at a time.
#pragma once
#include "cpu/isa/bfloat16_format.h"
#include "cpu/isa/panel.h"
#include "cpu/isa/tile_rows.h"

#if defined(__AVX512BF16__)
namespace fastbert::cpu::FASTBERT_ISA {
namespace {

class Bfloat16Operand : public Bfloat16Format {
 public:
  static constexpr int64_t kTileRows = 6, kStep = kGroup;

  void run(int64_t rows, const uint16_t* a, int64_t stride, const uint16_t* panel, int64_t depth, float* out,
           int64_t out_stride) const {
    with_tile_rows<kTileRows>(
        rows, [&](auto tile_rows) { run_tile<decltype(tile_rows)::value>(a, stride, panel, depth, out, out_stride); });
  }

 private:
  template <int rows>
  static void run_tile(const uint16_t* a, int64_t stride, const uint16_t* panel, int64_t depth, float* out,
                       int64_t out_stride) {
    __m512 sums[rows][kVectors] = {};
    for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanelWidth) {
      __m512bh weights[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) std::memcpy(&weights[j], panel + 2 * j * kLanes, sizeof weights[j]);
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        int32_t pair;
        std::memcpy(&pair, a + r * stride + k, sizeof pair);
        const __m512bh values = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[r][j] = _mm512_dpbf16_ps(sums[r][j], values, weights[j]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) _mm512_storeu_ps(out + r * out_stride + j * kLanes, sums[r][j]);
  }
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
#endif
