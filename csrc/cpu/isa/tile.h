// The innermost loops of all matrix products: up to kTileRows rows of activations times one panel of weights
// (packed_matrix.h), with all sums in registers. On AVX-512 a tile is 6 x 64: per step of the depth 4 loads of weights
// and 6 broadcasts feed 24 multiply-adds, so that both multiply-add units stay busy while the panel streams from the
// second-level cache at a fraction of its bandwidth and the rows stay in the first.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/isa/math.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kPanelWidth = kVectors * kLanes;
constexpr int kTileRows = 6;

struct FloatTile {
  using Row = float;
  using Weight = float;
  using Sum = float;

  template <int rows>
  static void run(const float* a, int64_t stride, const float* panel, int64_t depth, float* out, int64_t out_stride) {
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

 private:
  static constexpr int64_t kPiece = 256;
};

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16Tile = true;
// `depth` is even.
struct Bfloat16Tile {
  using Row = uint16_t;
  using Weight = uint16_t;
  using Sum = float;

  template <int rows>
  static void run(const uint16_t* a, int64_t stride, const uint16_t* panel, int64_t depth, float* out,
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
#else
constexpr bool kHasBfloat16Tile = false;
#endif

// Unsigned rows times signed weights; `depth` is a multiple of 4.
struct Int8Tile {
  using Row = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;

#if defined(__AVX512VNNI__)
  template <int rows>
  static void run(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t depth, int32_t* out,
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
#else
  template <int rows>
  static void run(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t depth, int32_t* out,
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

// `rows` in 1..kTileRows.
template <class Tile>
inline void run_tile(int64_t rows, const typename Tile::Row* a, int64_t stride, const typename Tile::Weight* panel,
                     int64_t depth, typename Tile::Sum* out, int64_t out_stride) {
  switch (rows) {
    case 1:
      return Tile::template run<1>(a, stride, panel, depth, out, out_stride);
    case 2:
      return Tile::template run<2>(a, stride, panel, depth, out, out_stride);
    case 3:
      return Tile::template run<3>(a, stride, panel, depth, out, out_stride);
    case 4:
      return Tile::template run<4>(a, stride, panel, depth, out, out_stride);
    case 5:
      return Tile::template run<5>(a, stride, panel, depth, out, out_stride);
    default:
      return Tile::template run<6>(a, stride, panel, depth, out, out_stride);
  }
}

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
