// The exit head on a CPU: samples are shared out among threads; a sample's work is in vector_kernels_isa.cpp.
// Traffic per token: the projected row [C] is read and written once, and read once more for the weighted sum, all in
// cache.
#include "exit_head.h"

#include <limits>
#include <memory>

#include "cpu/vector_kernels.h"

namespace fastbert::cpu {

void exit_head(float* projected, const int32_t* cu_seqlens, const float* speed, const ExitHeadWeights& weights,
               const ExitHeadShape& shape, const ExitHeadOutputs& outputs) {
  const VectorKernels& kernels = vector_kernels();
  int64_t longest = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    const int64_t n = cu_seqlens[b + 1] - cu_seqlens[b];
    longest = n > longest ? n : longest;
  }
  const int64_t scratch_size = exit_head_scratch(shape, longest);

#pragma omp parallel if (shape.batch > 1)
  {
    const std::unique_ptr<float[]> scratch(new float[scratch_size]);
    // Dynamic: samples of a packed batch differ in length.
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < shape.batch; ++b) {
      const int64_t begin = cu_seqlens[b], n = cu_seqlens[b + 1] - begin;
      float* logits = outputs.logits + b * shape.num_labels;
      if (n > 0) {
        kernels.exit_head_sample(projected + begin * shape.narrow_size, n, weights, shape, scratch.get(), logits);
      } else {
        for (int64_t label = 0; label < shape.num_labels; ++label)
          logits[label] = std::numeric_limits<float>::quiet_NaN();
      }
      const float uncertainty = kernels.normalised_entropy(logits, shape.num_labels);
      outputs.uncertainty[b] = uncertainty;
      outputs.keep[b] = !(uncertainty < speed[b]);  // NaN is never below Speed: it does not exit
    }
  }
}

}  // namespace fastbert::cpu
