// The loop over layers on a CPU. Between layers nothing goes back to the caller, so that a single short text costs no more
// than its products.
#include "encoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <variant>
#include <vector>

#include "cpu/memory.h"
#include "cpu/profile.h"

namespace fastbert::cpu {
namespace {

// The samples still in the encoder, and room for what the next compaction makes of them.
struct Samples {
  explicit Samples(int64_t batch) : cu_seqlens(batch + 1), index(batch), speed(batch), history(2 * batch) {}

  std::vector<int32_t> cu_seqlens, index;
  std::vector<float> speed;
  std::vector<int32_t> history;
};

class Loop {
 public:
  Loop(const SpanInput& input, const EncoderWeights& weights, const Results& results, const CompactedBatch& survivors)
      : input_(input),
        weights_(weights),
        results_(results),
        survivors_(survivors),
        depth_(static_cast<int64_t>(weights.layers.size())),
        width_(weights.layers.front()->qkv.depth),
        batch_(input.batch),
        now_(input.batch),
        next_(input.batch),
        has_history_(input.history != nullptr),
        threshold_(input.batch),
        logits_(input.batch * weights.num_labels),
        uncertainty_(input.batch),
        history_(2 * input.batch),
        keep_(input.batch) {
    std::copy_n(input.cu_seqlens, batch_ + 1, now_.cu_seqlens.begin());
    std::copy_n(input.speed, batch_, now_.speed.begin());
    std::iota(now_.index.begin(), now_.index.end(), 0);
    if (has_history_) std::copy_n(input.history, 2 * batch_, now_.history.begin());
    const int64_t bytes = now_.cu_seqlens[batch_] * row_bytes();
    for (AlignedArray<char>& rows : rows_) rows = aligned_array<char>(bytes);
  }

  void run() {
    const void* hidden = input_.hidden;
    for (int64_t layer = input_.first; layer < input_.until && batch_ > 0;) {
      const int64_t first = layer;
      do ++layer;
      while (layer < input_.until && !head_runs(layer));
      hidden = run_layers(hidden, first, layer);
      if (!head_runs(layer)) break;
      Stopwatch watch(profiled());
      decide(*weights_.heads[layer - 1], hidden, layer);
      watch.lap(Phase::head);
      if (std::all_of(keep_.begin(), keep_.begin() + batch_, [](uint8_t stays) { return stays != 0; })) {
        std::copy_n(history_.begin(), 2 * batch_, now_.history.begin());
        continue;
      }
      let_out(hidden, layer);
      watch.lap(Phase::compaction);
      hidden = rows_[1].get();
    }
    if (input_.until < depth_) hand_over(hidden);
  }

 private:
  // Through the layers behind `first` up to `until`; the result is `hidden` itself or in rows_[1].
  const void* run_layers(const void* hidden, int64_t first, int64_t until) {
    std::vector<const EncoderLayerWeights*> layers;
    for (int64_t layer = first; layer < until; ++layer)
      if (const auto& weights = weights_.layers[layer]) layers.push_back(&*weights);
    if (layers.empty()) return hidden;
    encoder_layers(hidden, input_.dtype, now_.cu_seqlens.data(), batch_, layers, {rows_[0].get(), rows_[1].get()});
    if (layers.size() % 2 != 0) std::swap(rows_[0], rows_[1]);
    return rows_[1].get();
  }

  bool head_runs(int64_t layer) const { return layer == depth_ || (weights_.heads[layer - 1] && may_leave(layer)); }

  // Whether the head behind `layer`, which is not the last, is asked and can let anyone out; else it is not computed. No
  // uncertainty is below 0.
  bool may_leave(int64_t layer) const {
    if (!input_.asked[layer - 1]) return false;
    if (has_history(input_.rule.criterion)) return true;
    return std::any_of(now_.speed.begin(), now_.speed.begin() + batch_, [](float speed) { return speed > 0.0f; });
  }

  // What the uncertainties behind `layer` have to be below, [batch_].
  const float* thresholds(int64_t layer) {
    const float limit = input_.layer_speed[layer - 1];
    std::transform(now_.speed.begin(), now_.speed.begin() + batch_, threshold_.begin(),
                   [limit](float speed) { return std::min(speed, limit); });  // a NaN stays one
    return threshold_.data();
  }

  void decide(const ExitHead& head, const void* hidden, int64_t layer) {
    const Decision decision{input_.rule, thresholds(layer), has_history_ ? now_.history.data() : nullptr};
    const DecisionOutputs outputs{logits_.data(), uncertainty_.data(), history_.data(), keep_.data()};
    if (const auto* attentive = std::get_if<AttentiveHead>(&head)) {
      const AttentiveHeadShape shape{
          now_.cu_seqlens[batch_], batch_, width_, attentive->projection.outputs, attentive->num_heads,
          weights_.num_labels};
      attentive_head(hidden, input_.dtype, now_.cu_seqlens.data(), attentive->projection, attentive->weights, shape,
                     decision, outputs);
    } else {
      pooled_exit_head(hidden, input_.dtype, now_.cu_seqlens.data(), batch_, std::get<PackedPooledHead>(head), decision,
                       outputs);
    }
    has_history_ = true;
    if (layer == depth_) std::fill_n(keep_.begin(), batch_, uint8_t{0});  // whatever their uncertainty
  }

  int64_t row_bytes() const { return width_ * element_size(input_.dtype); }

  // What is left behind the span goes to the caller. One pass over rows that a layer has just written.
  void hand_over(const void* hidden) const {
    const int32_t tokens = now_.cu_seqlens[batch_];
    if (tokens > 0) std::memcpy(survivors_.hidden, hidden, tokens * row_bytes());
    std::copy_n(now_.cu_seqlens.begin(), batch_ + 1, survivors_.cu_seqlens);
    std::copy_n(now_.index.begin(), batch_, survivors_.sample_index);
    std::copy_n(now_.speed.begin(), batch_, survivors_.speed);
    std::copy_n(now_.history.begin(), 2 * batch_, survivors_.history);
    survivors_.counts[0] = static_cast<int32_t>(batch_);
    survivors_.counts[1] = tokens;
  }

  void let_out(const void* hidden, int64_t layer) {
    int32_t counts[2];
    const PackedBatch batch{hidden,
                            now_.cu_seqlens.data(),
                            keep_.data(),
                            now_.index.data(),
                            now_.speed.data(),
                            history_.data(),
                            logits_.data(),
                            uncertainty_.data(),
                            batch_,
                            now_.cu_seqlens[batch_],
                            row_bytes(),
                            weights_.num_labels,
                            layer};
    compact(
        batch,
        {rows_[0].get(), next_.cu_seqlens.data(), next_.index.data(), next_.speed.data(), next_.history.data(), counts},
        results_);
    std::swap(rows_[0], rows_[1]);
    std::swap(now_, next_);
    batch_ = counts[0];
  }

  const SpanInput& input_;
  const EncoderWeights& weights_;
  const Results& results_;
  const CompactedBatch& survivors_;
  int64_t depth_, width_, batch_;
  Samples now_, next_;
  bool has_history_;
  AlignedArray<char> rows_[2];
  std::vector<float> threshold_;
  // What a head says of the samples in `now_`.
  std::vector<float> logits_, uncertainty_;
  std::vector<int32_t> history_;
  std::vector<uint8_t> keep_;
};

}  // namespace

void run_span(const SpanInput& input, const EncoderWeights& weights, const Results& results,
              const CompactedBatch& survivors) {
  if (input.batch > 0) Loop(input, weights, results, survivors).run();
}

}  // namespace fastbert::cpu
