// The attentive exit head on a CPU. Groups of samples are shared out among threads: a group's rows are projected, with the
// help of threads that have no group, and the rest of the head follows while Z is in the second-level cache.
#include "attentive_head.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/decision.h"
#include "cpu/memory.h"
#include "cpu/product.h"
#include "cpu/threads.h"

namespace fastbert::cpu {
namespace {

// Samples of a group share the reads of the weights; a larger group's own rows would not stay in the cache beside them.
constexpr int64_t kGroupSamples = 4, kGroupTokens = 192;

class Head {
 public:
  Head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const PackedMatrix& projection,
       const AttentiveHeadWeights& weights, const AttentiveHeadShape& shape)
      : hidden_(hidden),
        dtype_(dtype),
        cu_seqlens_(cu_seqlens),
        projection_(projection),
        weights_(weights),
        shape_(shape) {}

  // Z before its activation, of the rows of a group.
  void project(Range group, float* zed) const {
    const int64_t begin = cu_seqlens_[group.begin];
    const char* first = static_cast<const char*>(hidden_) + begin * shape_.hidden_size * element_size(dtype_);
    share_product(projection_, {first, dtype_, shape_.hidden_size, nullptr, nullptr},
                  {zed, DType::float32, shape_.narrow_size}, cu_seqlens_[group.end] - begin);
  }

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
      scratch += attentive_head_scratch(shape_, n);
    }
    kernels().attentive_head_samples(samples, count, shape_.narrow_size, weights_, shape_);
  }

 private:
  const void* hidden_;
  DType dtype_;
  const int32_t* cu_seqlens_;
  const PackedMatrix& projection_;
  const AttentiveHeadWeights& weights_;
  const AttentiveHeadShape& shape_;
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

void attentive_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const PackedMatrix& projection,
                    const AttentiveHeadWeights& weights, const AttentiveHeadShape& shape, const Decision& decision,
                    const DecisionOutputs& outputs) {
  const Head head(hidden, dtype, cu_seqlens, projection, weights, shape);
  // Every thread gets two groups at least, so that the longest sample does not decide alone.
  const int64_t most_samples = std::clamp<int64_t>(shape.batch / (2 * available_threads()), 1, kGroupSamples);
  const std::vector<Range> groups = divide_into_groups(cu_seqlens, shape.batch, most_samples);
  parallel_for(static_cast<int64_t>(groups.size()), [&](int64_t i) {
    const Range group = groups[i];
    const int64_t rows = cu_seqlens[group.end] - cu_seqlens[group.begin];
    const int64_t scratch_size = (group.end - group.begin) * attentive_head_scratch(shape, 0) + shape.num_heads * rows;
    const AlignedArray<float> zed = aligned_array<float>(rows * shape.narrow_size);
    const AlignedArray<float> scratch = aligned_array<float>(scratch_size);
    head.project(group, zed.get());
    head.finish(group, zed.get(), scratch.get(), outputs.logits);
    for (int64_t b = group.begin; b < group.end; ++b) decide_sample(b, shape.num_labels, decision, outputs);
  });
}

}  // namespace fastbert::cpu
