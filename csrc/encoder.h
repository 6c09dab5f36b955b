// All layers of a FastBERT on a CPU: a packed batch goes through encoder layers and exit heads, and samples leave.
#pragma once
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "compact.h"
#include "decision.h"
#include "encoder_layer.h"
#include "exit_head.h"
#include "packed_matrix.h"
#include "pooled_exit_head.h"

namespace fastbert {

struct AttentiveHead {
  PackedMatrix projection;
  ExitHeadWeights weights;  // as cpu::exit_head takes them
  int64_t num_heads;        // h
};

using ExitHead = std::variant<AttentiveHead, PackedPooledHead>;

struct EncoderWeights {
  // L; nothing: the head that belongs to it is a second one behind the layer before. The first is there.
  std::vector<std::optional<EncoderLayerWeights>> layers;
  // L; nothing: no head behind the layer. The last is there.
  std::vector<std::optional<ExitHead>> heads;
  int64_t num_labels;
};

struct EncoderInput {
  const void* hidden;  // [T, H] embeddings, left as they are
  DType dtype;         // float32 or bfloat16
  const int32_t* cu_seqlens;
  int64_t batch;             // B
  const float* speed;        // [B], or nullptr: full depth, and only the last head answers
  const float* layer_speed;  // [L] or nullptr; the threshold of a sample is the smaller Speed of the two, and a head
                             // behind a layer with Speed 0 is not asked; the last layer's is not looked at
  Criterion criterion;
  int32_t top_k;
  int32_t patience;
};

namespace cpu {
void run_encoder(const EncoderInput& input, const EncoderWeights& weights, const Results& results);
}  // namespace cpu

}  // namespace fastbert
