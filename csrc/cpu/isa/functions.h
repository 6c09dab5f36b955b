// What the sources of this folder offer the table of kernels; documented in cpu/kernels.h.
#pragma once
#include "cpu/kernels.h"

namespace fastbert::cpu::FASTBERT_ISA {

const char* fault();
int64_t fewest_tile_rows(DType operand, int64_t depth);
DType product_operand(DType rows, int64_t depth);
int64_t packed_matrix_bytes(int64_t outputs, int64_t depth, DType operand);
void pack_matrix(const float* weight, const float* bias, const PackedMatrix& matrix, void* memory);
void product(const PackedMatrix& matrix, const ProductRows& rows, const ProductOutput& output, Range row_range,
             Range panel_range);
int64_t product_tile_rows(DType operand);
int64_t quantised_row_bytes(int64_t count);
void quantise_row(const void* values, DType dtype, int64_t count, void* row, float* scale, int32_t* shift);
void widen_row(const void* values, DType dtype, int64_t count, float* out);
void add_three_rows(const float* a, const float* b, const float* c, int64_t count, float* out);
void layer_norm_row(const float* values, const LayerNorm& norm, int64_t count, DType dtype, void* out);
void self_attention(const AttentionHead& head, float* scratch);
int64_t self_attention_scratch(int64_t n, int64_t head_size);
void attentive_head_samples(const HeadSample* samples, int64_t count, int64_t stride,
                            const AttentiveHeadWeights& weights, const AttentiveHeadShape& shape);
void attention_pooling_sample(const void* rows, DType dtype, int64_t n, const float* keys,
                              const AttentiveHeadShape& shape, float* scratch, float* contexts);
void pool_sample(const void* rows, DType dtype, int64_t n, int64_t hidden_size, Pooling pooling, float* scratch,
                 float* pooled);
float normalised_entropy(const float* logits, int64_t count);
float largest_probability(const float* logits, int64_t count);

}  // namespace fastbert::cpu::FASTBERT_ISA
