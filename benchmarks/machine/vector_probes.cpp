// What this machine's vector units reach where nothing stands in their way, with operands that stay in registers, and reads of
// memory. rates.py compiles this file with the compiler at hand.
#include <immintrin.h>

#include <cstdint>

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define UNIT(flags) EXPORTED __attribute__((target(flags)))

namespace {

// Sums that do not wait for each other: more than latency times units, and with two operands no more than 16 registers.
constexpr int kSums = 12;

}  // namespace

// Each returns something that depends on all its products, so that none of them can be left out. 12 products a step.

// Declares `sums`, whose first is the sum of all products of `a` and `b` in `steps`.
#define SUM_PRODUCTS(Vector, broadcast, product, add)                                          \
  Vector sums[kSums];                                                                          \
  for (int i = 0; i < kSums; ++i) sums[i] = broadcast(i);                                      \
  for (int64_t step = 0; step < steps; ++step)                                                 \
    _Pragma("GCC unroll 12") for (int i = 0; i < kSums; ++i) sums[i] = product(sums[i], a, b); \
  for (int i = 1; i < kSums; ++i) sums[0] = add(sums[0], sums[i]);

UNIT("avx2,fma") float avx2_float32(int64_t steps) {
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  SUM_PRODUCTS(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps)
  return _mm256_cvtss_f32(sums[0]);
}

UNIT("avx512f") float avx512_float32(int64_t steps) {
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  SUM_PRODUCTS(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps)
  return _mm512_cvtss_f32(sums[0]);
}

UNIT("avx512f,avx512bf16") float avx512_bfloat16(int64_t steps) {
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3a80);  // 1 and 2^-10
  SUM_PRODUCTS(__m512, _mm512_set1_ps, _mm512_dpbf16_ps, _mm512_add_ps)
  return _mm512_cvtss_f32(sums[0]);
}

UNIT("avx512f,avx512vnni") int32_t avx512_int8(int64_t steps) {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  SUM_PRODUCTS(__m512i, _mm512_set1_epi32, _mm512_dpbusd_epi32, _mm512_add_epi32)
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, sums[0]);
  return lanes[0];
}

// Pairs of 16-bit products and their addition: what AVX2 has for bytes without saturation. As in a product, only the
// additions wait for each other; the empty statement keeps the compiler from computing the pairs once for all steps.
UNIT("avx2") int32_t avx2_int8(int64_t steps) {
  __m256i row = _mm256_set1_epi16(77);
  const __m256i weight = _mm256_set1_epi16(-5);
  __m256i a = _mm256_set1_epi32(0), b = _mm256_set1_epi32(1), c = _mm256_set1_epi32(2), d = _mm256_set1_epi32(3);
  const auto add_pairs = [&](__m256i sum) __attribute__((always_inline, target("avx2"))) {
    __asm__ volatile("" : "+x"(row));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(row, weight));
  };
  for (int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) a = add_pairs(a), b = add_pairs(b), c = add_pairs(c), d = add_pairs(d);
  const __m256i all = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
  return _mm_cvtsi128_si32(_mm256_castsi256_si128(all));
}

// Whole lines of 64 bytes.
UNIT("avx2") int64_t read_memory(const uint8_t* memory, int64_t bytes) {
  __m256i sums[4] = {};
  for (int64_t i = 0; i + 128 <= bytes; i += 128)
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const auto* line = reinterpret_cast<const __m256i*>(memory + i + 32 * part);
      sums[part] = _mm256_add_epi64(sums[part], _mm256_loadu_si256(line));
    }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
  alignas(32) int64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), all);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}
