// The number of a tile's rows as a constant of the compiler, which keeps the sums of that many rows in registers.
#pragma once
#include <cstdint>

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

template <int number>
struct Constant {
  static constexpr int value = number;
};

// run(Constant<rows>()), for `rows` in 1..most.
template <int most, class Run>
inline void with_tile_rows(int64_t rows, const Run& run) {
  if constexpr (most > 1)
    if (rows < most) return with_tile_rows<most - 1>(rows, run);
  run(Constant<most>());
}

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
