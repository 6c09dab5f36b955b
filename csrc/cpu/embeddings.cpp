// Embeddings on a CPU: three rows are read and one is written per token, all threads.
#include "embeddings.h"

#include "cpu/kernels.h"
#include "cpu/memory.h"

namespace fastbert::cpu {

void embed(const TokenIds& ids, const EmbeddingWeights& weights, DType dtype, void* out) {
  const Kernels& set = kernels();
  const int64_t width = weights.hidden_size;
#pragma omp parallel if (ids.count * width > (1 << 16))
  {
    const AlignedArray<float> sum = aligned_array<float>(width);
#pragma omp for
    for (int64_t token = 0; token < ids.count; ++token) {
      const int64_t segment = ids.segments ? ids.segments[token] : 0;
      set.add_three_rows(weights.words + ids.words[token] * width, weights.positions + ids.positions[token] * width,
                         weights.segments + segment * width, width, sum.get());
      set.layer_norm_row(sum.get(), weights.norm, weights.norm_bias, weights.layer_norm_eps, width, dtype,
                         static_cast<char*>(out) + token * width * element_size(dtype));
    }
  }
}

}  // namespace fastbert::cpu
