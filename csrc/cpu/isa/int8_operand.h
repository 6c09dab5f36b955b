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

#include "cpu/isa/word_operand.h"

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

struct Int8Words {
  using Format = Int8Format;
  using Sums = IntVector;

  static IntVector add_products(IntVector sums, IntVector row, IntVector weights) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<IntVector>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(row), reinterpret_cast<__m512i>(weights)));
#elif defined(FASTBERT_INT8_PAIRS) && defined(__AVX512BW__)
    return sums + reinterpret_cast<IntVector>(
                      _mm512_madd_epi16(reinterpret_cast<__m512i>(row), reinterpret_cast<__m512i>(weights)));
#elif defined(FASTBERT_INT8_PAIRS)
    return sums + reinterpret_cast<IntVector>(
                      _mm256_madd_epi16(reinterpret_cast<__m256i>(row), reinterpret_cast<__m256i>(weights)));
#else
    for (int place = 0; place < 32; place += 8) sums += ((row >> place) & 0xff) * ((weights << (24 - place)) >> 24);
    return sums;
#endif
  }
};

using Int8Operand = WordOperand<Int8Words>;

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
