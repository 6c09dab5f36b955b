// Operands of vectors whose instruction multiplies words of 32 bits, a group of the depth each: one word of a row, in all
// lanes, with those of a vector of columns.
//
// `Words` is a class with
//   Format                            what the operand is but for its products: Row, Weight, Sum, kGroup, kQuantised, encode
//   Sums                              a vector of sums
//   add_products(sums, row, weights)  the sums and, of each lane, the products of the values in both words
#pragma once
#include "cpu/isa/panel.h"
#include "cpu/isa/tile_rows.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

template <class Words>
class WordOperand : public Words::Format {
 public:
  using typename Words::Format::Row;
  using typename Words::Format::Sum;
  using typename Words::Format::Weight;
  using Words::Format::kGroup;
  static_assert(kGroup * sizeof(Row) == sizeof(int32_t) && kGroup * sizeof(Weight) == sizeof(int32_t));
  static constexpr int64_t kTileRows = 6, kStep = kGroup;

  void run(int64_t rows, const Row* a, int64_t stride, const Weight* panel, int64_t depth, Sum* out,
           int64_t out_stride) const {
    with_tile_rows<kTileRows>(
        rows, [&](auto tile_rows) { run_tile<decltype(tile_rows)::value>(a, stride, panel, depth, out, out_stride); });
  }

 private:
  template <int rows>
  static void run_tile(const Row* a, int64_t stride, const Weight* panel, int64_t depth, Sum* out, int64_t out_stride) {
    typename Words::Sums sums[rows][kVectors] = {};
    for (int64_t k = 0; k < depth; k += kGroup, panel += kGroup * kPanelWidth) {
      IntVector weights[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) std::memcpy(&weights[j], panel + kGroup * j * kLanes, sizeof(IntVector));
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        int32_t word;
        std::memcpy(&word, a + r * stride + k, sizeof word);
        const IntVector values = IntVector{} + word;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[r][j] = Words::add_products(sums[r][j], values, weights[j]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) std::memcpy(out + r * out_stride + j * kLanes, &sums[r][j], sizeof sums[r][j]);
  }
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
