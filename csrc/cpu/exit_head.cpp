// The attentive exit head on a CPU. Groups of samples are shared out among threads: a group's rows are projected, and the
// rest of the head follows while Z is in the second-level cache. With too few samples to go round, all threads project
// first, together.
#include "exit_head.h"

#include <algorithm>
#include <limits>
#include <vector>

#include <omp.h>

#include "cpu/decision.h"
#include "cpu/memory.h"
#include "cpu/product.h"

namespace fastbert::cpu {
namespace {

// Samples of a group share the reads of the weights; a larger group's own rows would not stay in the cache beside them.
constexpr int64_t kGroupSamples = 4, kGroupTokens = 192;

class Head {
 public:
  Head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const PackedMatrix& projection,
       const ExitHeadWeights& weights, const ExitHeadShape& shape)
      : rows_{hidden, dtype, shape.hidden_size, nullptr, nullptr},
        cu_seqlens_(cu_seqlens),
        projection_(projection),
        weights_(weights),
        shape_(shape) {}

  // Z before its activation: of some rows by one thread, or of all of them by all threads of a parallel region.
  void project(Range rows, float* zed) const {
    ProductOutput output = output_at(zed - rows.begin * shape_.narrow_size);
    const int64_t width = kernels().panel_width;
    kernels().product(projection_, rows_, output, rows, {0, (shape_.narrow_size + width - 1) / width});
  }
  void share_projection(float* zed) const { share_product(projection_, rows_, output_at(zed), shape_.tokens); }

  // The rest, for the samples of a group whose first row is the first of `zed`.
  void finish(Range group, float* zed, float* scratch, float* logits) const {
    HeadSample samples[kGroupSamples];
    int64_t count = 0;
    for (int64_t b = group.begin; b < group.end; ++b) {
      const int64_t n = cu_seqlens_[b + 1] - cu_seqlens_[b];
      float* of_sample = logits + b * shape_.num_labels;
      if (n == 0) {
        std::fill_n(of_sample, shape_.num_labels, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      float* first = zed + (cu_seqlens_[b] - cu_seqlens_[group.begin]) * shape_.narrow_size;
      samples[count++] = {first, n, scratch, of_sample};
      scratch += exit_head_scratch(shape_, n);
    }
    kernels().exit_head_samples(samples, count, shape_.narrow_size, weights_, shape_);
  }

 private:
  ProductOutput output_at(float* zed) const { return {zed, DType::float32, shape_.narrow_size}; }

  ProductRows rows_;
  const int32_t* cu_seqlens_;
  const PackedMatrix& projection_;
  const ExitHeadWeights& weights_;
  const ExitHeadShape& shape_;
};

std::vector<Range> divide_into_groups(const int32_t* cu_seqlens, int64_t batch, int64_t most_samples) {
  std::vector<Range> groups;
  for (int64_t begin = 0; begin < batch;) {
    int64_t end = begin + 1;
    while (end < batch && end - begin < most_samples && cu_seqlens[end + 1] - cu_seqlens[begin] <= kGroupTokens) ++end;
    groups.push_back({begin, end});
    begin = end;
  }
  return groups;
}

}  // namespace

void exit_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const PackedMatrix& projection,
               const ExitHeadWeights& weights, const ExitHeadShape& shape, const Decision& decision,
               const DecisionOutputs& outputs) {
  const Head head(hidden, dtype, cu_seqlens, projection, weights, shape);
  const int64_t threads = omp_get_max_threads(), narrow = shape.narrow_size;
  // Every thread gets two groups at least, so that the longest sample does not decide alone.
  const int64_t most_samples = std::clamp<int64_t>(shape.batch / (2 * threads), 1, kGroupSamples);
  const std::vector<Range> groups = divide_into_groups(cu_seqlens, shape.batch, most_samples);
  const bool together = static_cast<int64_t>(groups.size()) < 2 * threads;
  int64_t rows = 0, scratch_size = 0;
  for (const Range& group : groups) {
    const int64_t n = cu_seqlens[group.end] - cu_seqlens[group.begin];
    rows = std::max(rows, n);
    scratch_size =
        std::max(scratch_size, (group.end - group.begin) * exit_head_scratch(shape, 0) + shape.num_heads * n);
  }
  const AlignedArray<float> all = aligned_array<float>(together ? shape.tokens * narrow : 0);

#pragma omp parallel
  {
    if (together) head.share_projection(all.get());
    const AlignedArray<float> own = aligned_array<float>(together ? 0 : rows * narrow);
    const AlignedArray<float> scratch = aligned_array<float>(scratch_size);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < static_cast<int64_t>(groups.size()); ++i) {
      const Range group = groups[i];
      float* zed = together ? all.get() + cu_seqlens[group.begin] * narrow : own.get();
      if (!together) head.project({cu_seqlens[group.begin], cu_seqlens[group.end]}, zed);
      head.finish(group, zed, scratch.get(), outputs.logits);
      for (int64_t b = group.begin; b < group.end; ++b) decide_sample(b, shape.num_labels, decision, outputs);
    }
  }
}

}  // namespace fastbert::cpu
