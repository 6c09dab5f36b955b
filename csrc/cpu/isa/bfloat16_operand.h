// Products in bfloat16 with float32 sums, by the processor's instruction for them: two values of the depth at a time.
#pragma once
#include "cpu/isa/bfloat16_format.h"
#include "cpu/isa/word_operand.h"

#if defined(__AVX512BF16__)
namespace fastbert::cpu::FASTBERT_ISA {
namespace {

struct Bfloat16Words {
  using Format = Bfloat16Format;
  using Sums = Vector;

  static Vector add_products(Vector sums, IntVector row, IntVector weights) {
    return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), reinterpret_cast<__m512bh>(row),
                                                     reinterpret_cast<__m512bh>(weights)));
  }
};

using Bfloat16Operand = WordOperand<Bfloat16Words>;

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
#endif
