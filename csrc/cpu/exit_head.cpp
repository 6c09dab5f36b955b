// The attentive exit head on a CPU: groups of samples are shared out among threads; the work on a group is in
// vector_kernels_isa.cpp. Traffic per token: the projected row [C] is read once, and Z written and read once, in cache.
#include "exit_head.h"

#include <algorithm>
#include <limits>
#include <memory>

#include <omp.h>

#include "cpu/decision.h"
#include "cpu/samples.h"
#include "cpu/vector_kernels.h"

namespace fastbert::cpu {
namespace {

constexpr int64_t kLargestGroup = 4;  // more would push a group's own rows out of the second-level cache

}  // namespace

void exit_head(void* projected, DType projected_dtype, const int32_t* cu_seqlens, const ExitHeadWeights& weights,
               const ExitHeadShape& shape, const Decision& decision, const DecisionOutputs& outputs) {
  const VectorKernels& kernels = vector_kernels();
  const int64_t batch = shape.batch, narrow = shape.narrow_size;
  const int64_t longest = longest_sample(cu_seqlens, batch);
  const bool in_place = projected_dtype == DType::float32;
  const int64_t zed_size = in_place ? 0 : longest * narrow;
  const int64_t sample_size = exit_head_scratch(shape, longest) + zed_size;
  // Every thread gets two groups at least, so that the longest sample does not decide alone.
  const int64_t group = std::clamp<int64_t>(batch / (2 * omp_get_max_threads()), 1, kLargestGroup);

#pragma omp parallel if (batch > 1)
  {
    const std::unique_ptr<float[]> memory(new float[group * sample_size]);
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < batch; begin += group) {
      const int64_t end = std::min(begin + group, batch);
      HeadSample samples[kLargestGroup];
      int64_t count = 0;
      for (int64_t b = begin; b < end; ++b) {
        const int64_t n = cu_seqlens[b + 1] - cu_seqlens[b];
        float* logits = outputs.logits + b * shape.num_labels;
        if (n == 0) {
          std::fill_n(logits, shape.num_labels, std::numeric_limits<float>::quiet_NaN());
          continue;
        }
        char* rows = static_cast<char*>(projected) + cu_seqlens[b] * narrow * element_size(projected_dtype);
        float* scratch = memory.get() + count * sample_size;
        float* zed = in_place ? reinterpret_cast<float*>(rows) : scratch;
        samples[count++] = {rows, zed, n, scratch + zed_size, logits};
      }
      kernels.exit_head_samples(samples, count, projected_dtype, weights, shape);
      for (int64_t b = begin; b < end; ++b) decide_sample(b, shape.num_labels, decision, outputs);
    }
  }
}

}  // namespace fastbert::cpu
