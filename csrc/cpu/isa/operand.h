// Operands: what the rows of activations and the weights of a product are multiplied in, and how. Packing, products and
// attention are written once for any operand, and a call chooses its operand once, here, outside of all loops.
//
// An operand is a class. An object of it lives as long as a thread's loop over tiles: what the thread has to do before its
// first tile and after its last is done by the constructor and the destructor.
//
//   Row, Weight, Sum       elements of a row of activations, of a panel of weights (panel.h), of a tile of sums
//   kGroup                 depths that lie side by side in a panel
//   kTileRows              rows of a tile
//   kStep                  depths that it takes at once, a multiple of kGroup; a depth that is none costs time
//   run(rows, a, stride, panel, depth, out, out_stride)
//                          out [rows, kPanelWidth] = a [rows, depth] times one panel; `rows` in 1..kTileRows, `depth` a
//                          multiple of kGroup
//   kQuantised             a row and a column of weights have a scale, and the rows a shift, that the sums are yet to be
//                          multiplied with (product.cpp)
//
// One that weights are packed for has in addition
//   encode(weight, scale)  an element of the panel
//
// and one that attention multiplies in
//   read(values, dtype, count, buffer)     a row of activations as `run` takes it: where it lies or, converted, in `buffer`
//   interleave(rows [kGroup], count, out)  some columns of a group of rows as they lie in a panel
//   shares(values, count, depth, scale)    float32 values times `scale` as a row, in their place, filled up with zeros to
//                                          `depth`; behind `values` there is room to whole panels
#pragma once
#include "cpu/isa/bfloat16_operand.h"
#include "cpu/isa/float_operand.h"
#include "cpu/isa/int8_operand.h"
#include "cpu/isa/panel.h"

#if defined(FASTBERT_TILES)
#include "cpu/isa/tile_operand.h"
#endif

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

template <class Chosen>
struct Type {
  using type = Chosen;
};

#if defined(FASTBERT_TILES)
using Bfloat16Products = TileBfloat16Operand;
using Int8Products = TileInt8Operand;
#define FASTBERT_BFLOAT16_PRODUCTS
#else
#if defined(__AVX512BF16__)
using Bfloat16Products = Bfloat16Operand;
#define FASTBERT_BFLOAT16_PRODUCTS
#endif
using Int8Products = Int8Operand;
#endif

#if defined(FASTBERT_BFLOAT16_PRODUCTS)
constexpr bool kHasBfloat16Products = true;
#else
constexpr bool kHasBfloat16Products = false;
#endif

// run(Type<Operand>()) with the operand that a matrix is packed for; `matrix` is one that this instruction set has.
template <class Run>
inline auto with_packed_operand(DType matrix, const Run& run) {
#if defined(FASTBERT_BFLOAT16_PRODUCTS)
  if (matrix == DType::bfloat16) return run(Type<Bfloat16Products>());
#endif
  if (matrix == DType::int8) return run(Type<Int8Products>());
  if (matrix == DType::float32) return run(Type<FloatOperand>());
  __builtin_trap();
}

// The same with the operand that multiplies such rows with such a matrix.
template <class Run>
inline auto with_product_operand(DType matrix, DType rows, const Run& run) {
  if (matrix == DType::float32 && rows == DType::bfloat16) return run(Type<ConvertedOperand<DType::bfloat16>>());
  if (matrix == DType::float32 && rows == DType::float16) return run(Type<ConvertedOperand<DType::float16>>());
  return with_packed_operand(matrix, run);
}

// The same with the operand for attention among rows that are to be multiplied in `operand`, bfloat16 or float32.
template <class Run>
inline auto with_attention_operand([[maybe_unused]] DType operand, [[maybe_unused]] int64_t head_size, const Run& run) {
#if defined(FASTBERT_BFLOAT16_PRODUCTS)
  if (operand == DType::bfloat16 && head_size % Bfloat16Products::kGroup == 0) return run(Type<Bfloat16Products>());
#endif
  return run(Type<FloatOperand>());
}

}  // namespace
}  // namespace fastbert::cpu::FASTBERT_ISA
