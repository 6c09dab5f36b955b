// Products in int8 of the instruction set that this is compiled for, against sums in plain integers; any difference ends the
// program with status 1.
#include <cstdio>
#include <vector>

#include "cpu/isa/int8_operand.h"

using namespace fastbert::cpu::FASTBERT_ISA;

int main() {
  using Row = Int8Operand::Row;
  using Weight = Int8Operand::Weight;
  constexpr int64_t kRows = Int8Operand::kTileRows, kGroup = Int8Operand::kGroup, kStride = 3080;
  std::vector<Row> rows(kRows * kStride);
  std::vector<Weight> panel(kStride * kPanelWidth);
  std::vector<int32_t> sums(kRows * kPanelWidth);
  uint32_t state = 1;
  const auto next = [&state] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (int round = 0; round < 2; ++round) {
    // First any values, then the largest ones, of which two are more than 16 bits hold.
    for (Row& value : rows) value = static_cast<Row>(round == 0 ? next() % 256 : 255);
    for (Weight& value : panel) value = static_cast<Weight>(round == 0 ? static_cast<int>(next() % 255) - 127 : -127);
    for (int64_t depth : {kGroup, 2 * kGroup, int64_t{100}, int64_t{3072}})
      for (int64_t count = 1; count <= kRows; ++count) {
        Int8Operand().run(count, rows.data(), kStride, panel.data(), depth, sums.data(), kPanelWidth);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t c = 0; c < kPanelWidth; ++c) {
            int32_t want = 0;
            for (int64_t k = 0; k < depth; ++k)
              want += rows[r * kStride + k] * panel[k / kGroup * kGroup * kPanelWidth + kGroup * c + k % kGroup];
            if (sums[r * kPanelWidth + c] != want) {
              std::printf("row %d column %d depth %d: %d, not %d\n", static_cast<int>(r), static_cast<int>(c),
                          static_cast<int>(depth), sums[r * kPanelWidth + c], want);
              return 1;
            }
          }
      }
  }
}
