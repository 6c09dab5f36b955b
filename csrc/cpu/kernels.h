// The kernels that profit from wide vectors. Their sources (isa/) are compiled once per instruction set, and one set is
// chosen at first use, by what the processor has.
#pragma once
#include <cstdint>
#include <vector>

#include "attentive_head.h"
#include "layer_norm.h"
#include "packed_matrix.h"
#include "pooling.h"

namespace fastbert::cpu {

// Rows of activations that enter a product.
struct ProductRows {
  const void* values;  // [rows, K] float32, bfloat16 or float16; for an int8 matrix as quantise_row leaves them
  DType dtype;
  int64_t stride;        // from row to row, in elements; of quantised rows in bytes
  const float* scale;    // [rows], int8 only
  const int32_t* shift;  // [rows], int8 only
};

enum class Epilogue { none, relu, gelu };

// Where X W^T + b goes: epilogue(X W^T + b) + residual.
struct ProductOutput {
  void* values;  // [rows, N] float32 or bfloat16
  DType dtype;
  int64_t stride;
  Epilogue epilogue = Epilogue::none;
  const void* residual = nullptr;  // [rows, N] of `residual_dtype`
  DType residual_dtype = DType::float32;
  int64_t residual_stride = 0;
};

struct Range {
  int64_t begin, end;
};

// Self-attention of one head of one sample.
struct AttentionHead {
  const void* query;  // [n, d]; key and value lie `offset` and 2 `offset` elements behind
  void* context;      // [n, d]
  DType dtype;        // float32 or bfloat16
  DType operand;      // float32, or bfloat16 rows in bfloat16 where the instruction set has products in it
  int64_t n, head_size, offset, stride, context_stride;
  const float* position_bias = nullptr;  // at distance 0: what is added to q k^T at distances 1 - n to n - 1
};

// One sample of the attentive exit head with n >= 1 tokens.
struct HeadSample {
  float* zed;  // [n, stride]: the projection, which Z takes the place of
  int64_t n;
  float* scratch;  // attentive_head_scratch(shape, n) floats
  float* logits;   // [N]
};

struct Kernels {
  const char* name;
  int64_t panel_width;

  // Why the set is not fit for use here, though processor and system have it, or nullptr: it tests itself.
  const char* (*fault)();
  // From how many rows on products of such a depth take tile registers; 0 for a set, or in a thread, without.
  int64_t (*fewest_tile_rows)(DType operand, int64_t depth);

  // These three are documented in packed_matrix.h.
  DType (*product_operand)(DType rows, int64_t depth);
  int64_t (*packed_matrix_bytes)(int64_t outputs, int64_t depth, DType operand);
  void (*pack_matrix)(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory);
  // Rows that a tile takes: pieces of a product are best of a multiple of them.
  int64_t (*product_tile_rows)(DType operand);
  // The columns of some panels for some rows.
  void (*product)(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, Range row_range,
                  Range panel_range);
  // values [count] -> row of quantised_row_bytes(count) bytes, with values = scale (row - shift). A value of the row takes 8
  // or 16 bits, as the products of this set read them. The scale is NaN where a value is not finite.
  int64_t (*quantised_row_bytes)(int64_t count);
  void (*quantise_row)(const void* values, DType dtype, int64_t count, void* row, float* scale, int32_t* shift);
  // values [count] -> out [count], the same numbers.
  void (*widen_row)(const void* values, DType dtype, int64_t count, float* out);
  void (*add_three_rows)(const float* a, const float* b, const float* c, int64_t count, float* out);
  void (*layer_norm_row)(const float* values, const LayerNorm& norm, int64_t count, DType dtype, void* out);
  // `scratch` holds self_attention_scratch(n, head_size) floats.
  void (*self_attention)(const AttentionHead& head, float* scratch);
  int64_t (*self_attention_scratch)(int64_t n, int64_t head_size);

  // The attentive exit head of some samples behind the projection, with narrow_activation = tanh. They share the reads of
  // the folded matrices, which for short samples are more than their own rows.
  void (*attentive_head_samples)(const HeadSample* samples, int64_t count, int64_t stride,
                                 const AttentiveHeadWeights& weights, const AttentiveHeadShape& shape);
  // contexts [h, H] = softmax_j(keys_i . x_j) X of one sample with n >= 1 rows X [n, H].
  // `scratch` holds attention_pooling_scratch(shape, n) floats.
  void (*attention_pooling_sample)(const void* rows, DType dtype, int64_t n, const float* keys,
                                   const AttentiveHeadShape& shape, float* scratch, float* contexts);
  // pooled [H] of one sample with n >= 1 rows [n, H]. `scratch` holds H floats.
  void (*pool_sample)(const void* rows, DType dtype, int64_t n, int64_t hidden_size, Pooling pooling, float* scratch,
                      float* pooled);

  // Of softmax(logits [count]), count >= 2; NaN when any logit is NaN or +inf.
  float (*normalised_entropy)(const float* logits, int64_t count);
  float (*largest_probability)(const float* logits, int64_t count);
};

inline int64_t attentive_head_scratch(const AttentiveHeadShape& shape, int64_t n) {
  return shape.num_heads * (2 * shape.narrow_size + n) + shape.narrow_size;
}

inline int64_t attention_pooling_scratch(const AttentiveHeadShape& shape, int64_t n) {
  return shape.num_heads * n + shape.hidden_size;
}

// The widest set this processor runs, or the one named by the environment variable FASTBERT_CPU_ISA. Throws
// std::runtime_error where that one cannot be had.
const Kernels& kernels();

struct InstructionSet {
  const char* name;
  const char* missing;  // why this processor or system does not have it, or nullptr
};

// All of them, the widest first.
std::vector<InstructionSet> instruction_sets();

}  // namespace fastbert::cpu
