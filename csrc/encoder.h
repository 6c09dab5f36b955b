// Spans of a FastBERT on a CPU: a packed batch goes through encoder layers and exit heads, and samples leave.
#pragma once
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "compact.h"
#include "decision.h"
#include "encoder_layer.h"
#include "attentive_head.h"
#include "packed_matrix.h"
#include "pooled_exit_head.h"

namespace fastbert {

struct AttentiveHead {
  PackedMatrix projection;
  AttentiveHeadWeights weights;  // as cpu::attentive_head takes them
  int64_t num_heads;             // h
  int64_t num_labels;            // N
};

using ExitHead = std::variant<AttentiveHead, PackedPooledHead>;

struct EncoderWeights {
  // L; nothing: the head that belongs to it is a second one behind the layer before. The first is there.
  std::vector<std::optional<EncoderLayerWeights>> layers;
  // L; nothing: no head behind the layer. The last is there.
  std::vector<std::optional<ExitHead>> heads;
  int64_t num_labels;
};

// The samples in front of a span, and which layers it has.
struct SpanInput {
  const void* hidden;  // [T, H] embeddings, or what layer `first` left behind; stays as it is
  DType dtype;         // float32 or bfloat16
  const int32_t* cu_seqlens;
  int64_t batch;  // B
  int64_t first;  // layers run before, 0..L - 1
  int64_t until;  // layers run behind it, first + 1..L
  ExitRule rule;
  const float* speed;        // [B]
  const int32_t* history;    // [B, 2] of the head asked before (decision.h), or nullptr where none was
  const float* layer_speed;  // [L]; the threshold of a sample behind a layer is the smaller Speed of the two
  const uint8_t* asked;      // [L]; 0: the head behind a layer is not asked. The last one always is, and lets everybody
                             // out, so the last entries of both are not looked at.
};

namespace cpu {
// Runs the layers behind `first` up to `until`. The answers of samples that leave go to their row of `results`, which is
// that of the input. Those who are left go to `survivors` (compact.h; nothing is written behind the last of them), their
// `sample_index` being their row of the input. Behind the last layer nobody is, and `survivors` is not looked at.
void run_span(const SpanInput& input, const EncoderWeights& weights, const Results& results,
              const CompactedBatch& survivors);
}  // namespace cpu

}  // namespace fastbert
