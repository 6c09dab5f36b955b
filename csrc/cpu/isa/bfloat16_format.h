// What operands in bfloat16 have in common, whatever multiplies them: pairs of values side by side in a panel.
#pragma once
#include "cpu/isa/math.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

struct Bfloat16Format {
  using Row = uint16_t;
  using Weight = uint16_t;
  using Sum = float;
  static constexpr int64_t kGroup = 2;
  static constexpr bool kQuantised = false;

  static uint16_t encode(float weight, float) { return to_bfloat16(weight); }

  static const uint16_t* read(const void* values, DType, int64_t, uint16_t*) {
    return static_cast<const uint16_t*>(values);
  }
  static void interleave(const uint16_t* const* rows, int64_t count, uint16_t* out) {
    auto* pairs = reinterpret_cast<uint32_t*>(out);
    const uint16_t *even = rows[0], *odd = rows[1];
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) pairs[c] = even[c] | static_cast<uint32_t>(odd[c]) << 16;
  }
  // In place: a value is read before anything is written over it.
  static const uint16_t* shares(float* values, int64_t count, int64_t depth, float scale) {
    auto* out = reinterpret_cast<uint16_t*>(values);
    for (int64_t begin = 0; begin < count; begin += kLanes) {  // the last piece reaches into the padding
      float piece[kLanes];
      for (int j = 0; j < kLanes; ++j) piece[j] = values[begin + j] * scale;
      store_as(out + begin, DType::bfloat16, piece, kLanes);
    }
    for (int64_t j = count; j < depth; ++j) out[j] = 0;
    return out;
  }
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
