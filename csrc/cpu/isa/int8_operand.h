// Products in int8: unsigned rows (quantise_row) times signed weights, with exact int32 sums.
//
// Where the processor multiplies bytes, four values of the depth lie side by side in a byte each. On AVX2 and on AVX-512
// without VNNI the widest exact product is of pairs in 16 bits each (that of bytes adds up in 16 bits and saturates): rows and
// weights then lie in memory in 16 bits, so that a step is a broadcast, a product and an addition. To widen them in registers
// would take as many instructions again.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/isa/panel.h"
#include "cpu/isa/tile_rows.h"

#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(FASTBERT_TILES)
#define FASTBERT_INT8_PAIRS
#endif

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

struct Int8Format {
#if defined(FASTBERT_INT8_PAIRS)
  using Row = int16_t;
  using Weight = int16_t;
  static constexpr int64_t kGroup = 2;
#else
  using Row = uint8_t;
  using Weight = int8_t;
  static constexpr int64_t kGroup = 4;
#endif
  using Sum = int32_t;
  static constexpr bool kQuantised = true;

  static Weight encode(float weight, float scale) { return static_cast<Weight>(__builtin_rintf(weight / scale)); }
};

class Int8Operand : public Int8Format {
 public:
  static constexpr int64_t kTileRows = 6, kStep = kGroup;

  void run(int64_t rows, const Row* a, int64_t stride, const Weight* panel, int64_t depth, int32_t* out,
           int64_t out_stride) const {
    with_tile_rows<kTileRows>(
        rows, [&](auto tile_rows) { run_tile<decltype(tile_rows)::value>(a, stride, panel, depth, out, out_stride); });
  }

 private:
#if defined(__AVX512VNNI__)
  template <int rows>
  static void run_tile(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t depth, int32_t* out,
                       int64_t out_stride) {
    __m512i sums[rows][kVectors] = {};
    for (int64_t k = 0; k < depth; k += 4, panel += 4 * kPanelWidth) {
      __m512i weights[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) weights[j] = _mm512_loadu_si512(panel + 4 * j * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        int32_t quad;
        std::memcpy(&quad, a + r * stride + k, sizeof quad);
        const __m512i values = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], values, weights[j]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) _mm512_storeu_si512(out + r * out_stride + j * kLanes, sums[r][j]);
  }
#elif defined(FASTBERT_INT8_PAIRS)
  // Sums of neighbouring products of 16-bit values.
  static IntVector multiply_pairs(IntVector a, IntVector b) {
#if defined(__AVX512BW__)
    return reinterpret_cast<IntVector>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
    return reinterpret_cast<IntVector>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#endif
  }

  template <int rows>
  static void run_tile(const int16_t* a, int64_t stride, const int16_t* panel, int64_t depth, int32_t* out,
                       int64_t out_stride) {
    IntVector sums[rows][kVectors] = {};
    for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanelWidth) {
      IntVector weights[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) std::memcpy(&weights[j], panel + 2 * j * kLanes, sizeof(IntVector));
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        int32_t pair;
        std::memcpy(&pair, a + r * stride + k, sizeof pair);
        const IntVector values = IntVector{} + pair;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[r][j] += multiply_pairs(values, weights[j]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) std::memcpy(out + r * out_stride + j * kLanes, &sums[r][j], sizeof(IntVector));
  }
#else
  template <int rows>
  static void run_tile(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t depth, int32_t* out,
                       int64_t out_stride) {
    for (int r = 0; r < rows; ++r) {
      int32_t sums[kPanelWidth] = {};
      for (int64_t k = 0; k < depth; k += 4) {
#pragma omp simd
        for (int c = 0; c < kPanelWidth; ++c)
          for (int i = 0; i < 4; ++i) sums[c] += a[r * stride + k + i] * panel[k * kPanelWidth + 4 * c + i];
      }
      std::memcpy(out + r * out_stride, sums, sizeof sums);
    }
  }
#endif
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
