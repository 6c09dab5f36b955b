// The table of one instruction set.
#include "cpu/isa/functions.h"
#include "cpu/isa/panel.h"

#define FASTBERT_STRINGIFY_(name) #name
#define FASTBERT_STRINGIFY(name) FASTBERT_STRINGIFY_(name)

namespace fastbert::cpu::FASTBERT_ISA {

extern const Kernels kernels;
const Kernels kernels{FASTBERT_STRINGIFY(FASTBERT_ISA),
                      kPanelWidth,
                      fault,
                      fewest_tile_rows,
                      product_operand,
                      packed_matrix_bytes,
                      pack_matrix,
                      product_tile_rows,
                      product,
                      quantised_row_bytes,
                      quantise_row,
                      widen_row,
                      add_three_rows,
                      layer_norm_row,
                      self_attention,
                      self_attention_scratch,
                      attentive_head_samples,
                      attention_pooling_sample,
                      pool_sample,
                      normalised_entropy,
                      largest_probability};

}  // namespace fastbert::cpu::FASTBERT_ISA
