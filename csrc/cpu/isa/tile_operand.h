// Products in bfloat16 and int8 by tile registers (AMX): eight of 16 rows x 64 bytes, and an instruction that multiplies
// two and adds to a third. Up to 32 rows and 32 columns at a time, two tiles of rows and two of weights feed four of sums:
//
//                 weights 6   weights 7      16 rows of a panel, 64 bytes of each: 16 groups of the depth x 16 columns
//   rows 4        sums 0      sums 1
//   rows 5        sums 2      sums 3
//
// A step of the depth (64 bytes of a row) is 4 KB of loads for 4 instructions of 16 cycles. Panels are as every operand has
// them: 16 of their rows, 256 bytes apart, are what a tile wants. Sums reach vector registers through memory only.
//
// Few rows, and what is left of a depth that is not a multiple of a step, are multiplied with vectors, whose sums are the
// same bit by bit. From how many rows on tiles are faster is measured (tile_choice.h).
//
// All that is asked of the processor here are the intrinsics _tile_*, for which tests/tile_model has a model in plain C++.
#pragma once
#include "cpu/isa/bfloat16_format.h"
#include "cpu/isa/int8_operand.h"
#include "cpu/isa/tile_choice.h"
#include "cpu/isa/tile_order.h"
#include "cpu/tiles.h"

#if defined(FASTBERT_TILE_MODEL)
#include "tile_model.h"
#else
#include <immintrin.h>
#endif

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

constexpr int64_t kRowsOfTile = 16, kBytesOfTile = 64;  // of one row
static_assert(kPanelWidth % 32 == 0, "two tiles of weights are 32 columns");

// As the processor reads it.
struct alignas(64) TileConfiguration {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// For 1 to 32 rows. Static: the intrinsic tells the compiler of the first bytes only, and one on the stack might never be
// written.
struct TileConfigurations {
  TileConfiguration of_rows[2 * kRowsOfTile + 1] = {};

  constexpr TileConfigurations() {
    for (int64_t rows = 1; rows <= 2 * kRowsOfTile; ++rows) {
      TileConfiguration& made = of_rows[rows];
      made.palette = 1;
      const int64_t first = rows < kRowsOfTile ? rows : kRowsOfTile, second = rows - first;
      for (int tile : {0, 1, 4}) set(made, tile, first);
      for (int tile : {2, 3, 5}) set(made, tile, second);
      for (int tile : {6, 7}) set(made, tile, kRowsOfTile);
    }
  }

 private:
  static constexpr void set(TileConfiguration& made, int tile, int64_t rows) {
    made.rows[tile] = static_cast<uint8_t>(rows);
    made.row_bytes[tile] = rows > 0 ? kBytesOfTile : 0;
  }
};
constexpr TileConfigurations kTileConfigurations;

struct Bfloat16Tiles {
  using Format = Bfloat16Format;
  using Vectors = TileOrderOperand;
  static constexpr bool kExact = false;
  static int64_t fewest_rows(int64_t depth) { return fewest_tile_rows(DType::bfloat16, depth); }
  static void multiply_first() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
  }
  static void multiply_second() {
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
};

struct Int8Tiles {
  using Format = Int8Format;
  using Vectors = Int8Operand;
  static constexpr bool kExact = true;
  static int64_t fewest_rows(int64_t depth) { return fewest_tile_rows(DType::int8, depth); }
  static void multiply_first() {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
  }
  static void multiply_second() {
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
};

template <class Tiles>
class TileOperand : public Tiles::Format {
 public:
  using Vectors = typename Tiles::Vectors;
  using Tiles::Format::kGroup;
  using typename Tiles::Format::Row;
  using typename Tiles::Format::Sum;
  using typename Tiles::Format::Weight;
  static constexpr int64_t kTileRows = 2 * kRowsOfTile;
  static constexpr int64_t kStep = kBytesOfTile / static_cast<int64_t>(sizeof(Row));

  TileOperand() : has_tiles_(thread_has_tiles()) {}
  // Tiles belong to the thread: the next to use them, of whatever library, finds them as if nobody had.
  ~TileOperand() {
    if (configured_ != 0) _tile_release();
  }
  TileOperand(const TileOperand&) = delete;
  TileOperand& operator=(const TileOperand&) = delete;

  void run(int64_t rows, const Row* a, int64_t stride, const Weight* panel, int64_t depth, Sum* out,
           int64_t out_stride) {
    const int64_t few = Tiles::fewest_rows(depth);  // may use tiles, hence before anything is configured
    int64_t in_tiles = has_tiles_ && depth >= kStep && rows >= few ? rows : 0;
    if (in_tiles > kRowsOfTile && in_tiles - kRowsOfTile < few) in_tiles = kRowsOfTile;
    if (in_tiles > 0) run_tiles(in_tiles, a, stride, panel, depth, out, out_stride);
    if (in_tiles < rows)
      run_vectors(rows - in_tiles, a + in_tiles * stride, stride, panel, depth, out + in_tiles * out_stride,
                  out_stride);
  }

  void run_tiles(int64_t rows, const Row* a, int64_t stride, const Weight* panel, int64_t depth, Sum* out,
                 int64_t out_stride) {
    if (rows != configured_) {
      _tile_loadconfig(&kTileConfigurations.of_rows[rows]);
      configured_ = rows;
    }
    // The loads below tell the compiler nothing of the memory that they read.
    __asm__ volatile("" ::: "memory");
    const int64_t steps = depth / kStep, whole = steps * kStep;
    for (int64_t column = 0; column < kPanelWidth; column += 2 * kRowsOfTile) {
      const auto* weights = reinterpret_cast<const char*>(panel + column * kGroup);
      if (rows > kRowsOfTile) {
        multiply<true>(a, stride, weights, steps, out + column, out_stride);
      } else {
        multiply<false>(a, stride, weights, steps, out + column, out_stride);
      }
    }
    if (whole == depth) return;
    alignas(64) Sum rest[kTileRows * kPanelWidth];
    run_vectors(rows, a + whole, stride, panel + whole * kPanelWidth, depth - whole, rest, kPanelWidth);
    for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < kPanelWidth; ++c) out[r * out_stride + c] += rest[r * kPanelWidth + c];
    }
  }

  void run_vectors(int64_t rows, const Row* a, int64_t stride, const Weight* panel, int64_t depth, Sum* out,
                   int64_t out_stride) const {
    for (int64_t row = 0; row < rows; row += Vectors::kTileRows) {
      const int64_t count = rows - row < Vectors::kTileRows ? rows - row : Vectors::kTileRows;
      vectors_.run(count, a + row * stride, stride, panel, depth, out + row * out_stride, out_stride);
    }
  }

 private:
  // 32 columns of the sums; `both` tiles of rows, or the first.
  template <bool both>
  static void multiply(const Row* a, int64_t stride, const char* weights, int64_t steps, Sum* out, int64_t out_stride) {
    constexpr int64_t kWeightStride = kPanelWidth * kGroup * sizeof(Weight);
    const int64_t row_stride = stride * static_cast<int64_t>(sizeof(Row));
    const int64_t sum_stride = out_stride * static_cast<int64_t>(sizeof(Sum));
    const auto* first = reinterpret_cast<const char*>(a);
    const char* second = both ? first + kRowsOfTile * row_stride : nullptr;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (both) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t step = 0; step < steps; ++step) {
      _tile_loadd(6, weights, kWeightStride);
      _tile_loadd(7, weights + kBytesOfTile, kWeightStride);
      _tile_loadd(4, first, row_stride);
      Tiles::multiply_first();
      if constexpr (both) {
        _tile_loadd(5, second, row_stride);
        Tiles::multiply_second();
      }
      weights += kRowsOfTile * kWeightStride;
      first += kBytesOfTile;
      if constexpr (both) second += kBytesOfTile;
    }
    auto* to = reinterpret_cast<char*>(out);
    _tile_stored(0, to, sum_stride);
    _tile_stored(1, to + kBytesOfTile, sum_stride);
    if constexpr (both) {
      to += kRowsOfTile * sum_stride;
      _tile_stored(2, to, sum_stride);
      _tile_stored(3, to + kBytesOfTile, sum_stride);
    }
  }

  const bool has_tiles_;
  int64_t configured_ = 0;  // rows, 0: not at all
  Vectors vectors_;
};

using TileBfloat16Operand = TileOperand<Bfloat16Tiles>;
using TileInt8Operand = TileOperand<Int8Tiles>;

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
