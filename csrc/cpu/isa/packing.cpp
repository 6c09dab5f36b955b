// Weights into the layout of packed matrices.
#include <cmath>
#include <limits>

#include "cpu/isa/functions.h"
#include "cpu/isa/operand.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

// Per output channel, symmetrically: W[n, k] = scale[n] * panel value. NaN where a weight is not finite: no integer
// stands for it, and with this scale no output of the channel is a number, as in float32.
float channel_scale(const float* row, int64_t count) {
  float largest = 0.0f;
  for (int64_t k = 0; k < count; ++k) {
    if (!std::isfinite(row[k])) return std::numeric_limits<float>::quiet_NaN();
    const float magnitude = row[k] < 0.0f ? -row[k] : row[k];
    largest = magnitude > largest ? magnitude : largest;
  }
  const float scale = largest / 127.0f;  // 0 where all weights are, or are next to nothing
  return scale > 0.0f ? scale : 1.0f;
}

template <class Operand>
void pack(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory) {
  constexpr int64_t kGroup = Operand::kGroup;
  const Panels<Operand> panels(matrix, memory);
  std::memset(memory, 0, panels.bytes());
  for (int64_t n = 0; n < matrix.outputs; ++n) {
    const float* row = weight + n * matrix.depth;
    const float scale = Operand::kQuantised ? channel_scale(row, matrix.depth) : 1.0f;
    typename Operand::Weight* column = panels.panel(n / kPanelWidth) + n % kPanelWidth * kGroup;
    int32_t sum = 0;
    for (int64_t k = 0; k < matrix.depth; ++k) {
      const auto value = std::isnan(scale) ? typename Operand::Weight{} : Operand::encode(row[k], scale);
      column[k / kGroup * kGroup * kPanelWidth + k % kGroup] = value;
      if constexpr (Operand::kQuantised) sum += value;
    }
    panels.bias()[n] = bias[n];
    if constexpr (Operand::kQuantised) {
      panels.scale()[n] = scale;
      panels.sum()[n] = sum;
    }
  }
}

}  // namespace

int64_t packed_matrix_bytes(int64_t outputs, int64_t depth, DType operand) {
  return with_packed_operand(operand, [&](auto chosen) {
    return Panels<typename decltype(chosen)::type>({nullptr, outputs, depth, operand}).bytes();
  });
}

void pack_matrix(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory) {
  with_packed_operand(matrix.operand,
                      [&](auto chosen) { pack<typename decltype(chosen)::type>(weight, bias, matrix, memory); });
}

}  // namespace fastbert::cpu::FASTBERT_ISA
