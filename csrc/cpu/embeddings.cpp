// Embeddings on a CPU: three rows are read and one is written per token, all threads.
#include "embeddings.h"

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/threads.h"

namespace fastbert::cpu {
namespace {

constexpr int64_t kRowsAhead = 4, kBlockRows = 64;

// Fewer are done before another thread is awake.
constexpr int64_t kFewestValues = 1 << 16;

// Words are all over a table of many megabytes, and their rows come from memory.
void prefetch_row(const float* row, int64_t width) {
  for (int64_t k = 0; k < width; k += 16) __builtin_prefetch(row + k);
}

}  // namespace

void embed(const TokenIds& ids, const EmbeddingWeights& weights, DType dtype, void* out) {
  const Kernels& set = kernels();
  const int64_t width = weights.hidden_size;
  const Alone alone(ids.count * width <= kFewestValues);
  parallel_for_blocks(ids.count, kBlockRows, [&](int64_t begin, int64_t end) {
    const AlignedArray<float> sum = aligned_array<float>(width);
    for (int64_t token = begin; token < end; ++token) {
      if (token + kRowsAhead < ids.count) prefetch_row(weights.words + ids.words[token + kRowsAhead] * width, width);
      const int64_t segment = ids.segments ? ids.segments[token] : 0;
      set.add_three_rows(weights.words + ids.words[token] * width, weights.positions + ids.positions[token] * width,
                         weights.segments + segment * width, width, sum.get());
      set.layer_norm_row(sum.get(), weights.norm, width, dtype,
                         static_cast<char*>(out) + token * width * element_size(dtype));
    }
  });
}

}  // namespace fastbert::cpu
