// Panels of packed matrices (packed_matrix.h): their width in this instruction set, and where the parts of one lie.
#pragma once
#include <cstdint>

#include "cpu/isa/math.h"
#include "packed_matrix.h"

// Whether this set has tile registers; FASTBERT_TILE_MODEL stands in for them in tests.
#if defined(__AMX_TILE__) || defined(FASTBERT_TILE_MODEL)
#define FASTBERT_TILES
#endif

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

#if defined(FASTBERT_TILES)
constexpr int kVectors = 64 / kLanes;  // two pairs of tiles
#elif defined(__AVX512F__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kPanelWidth = kVectors * kLanes;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

inline int64_t panels_of(int64_t columns) { return (columns + kPanelWidth - 1) / kPanelWidth; }

// The parts of a matrix packed for an operand (operand.h).
template <class Operand>
class Panels {
 public:
  using Weight = typename Operand::Weight;

  explicit Panels(const PackedMatrix& matrix) : Panels(matrix, const_cast<void*>(matrix.memory)) {}

  // Of a matrix that is packed into `memory`.
  Panels(const PackedMatrix& matrix, void* memory)
      : columns_(panels_of(matrix.outputs) * kPanelWidth),
        depth_(round_up(matrix.depth, Operand::kGroup)),
        panels_(static_cast<Weight*>(memory)),
        bias_(reinterpret_cast<float*>(panels_ + columns_ * depth_)) {}

  int64_t columns() const { return columns_; }
  int64_t depth() const { return depth_; }  // K rounded up to whole groups
  int64_t bytes() const {
    constexpr int64_t kVectorsOfColumns = Operand::kQuantised ? 3 : 1;
    return columns_ * (depth_ * static_cast<int64_t>(sizeof(Weight)) + 4 * kVectorsOfColumns);
  }

  Weight* panel(int64_t index) const { return panels_ + index * depth_ * kPanelWidth; }
  float* bias() const { return bias_; }
  // Of quantised operands only.
  float* scale() const { return bias_ + columns_; }
  int32_t* sum() const { return reinterpret_cast<int32_t*>(bias_ + 2 * columns_); }

 private:
  int64_t columns_, depth_;
  Weight* panels_;
  float* bias_;
};

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
