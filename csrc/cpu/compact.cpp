// Compaction on a CPU: one pass over the samples for the bookkeeping, then the rows of the survivors copied by all
// threads. Traffic: the survivors' rows are read once and written once.
#include "compact.h"

#include <cstring>

namespace fastbert::cpu {

void compact(const PackedBatch& batch, const CompactedBatch& out, const Results& results) {
  int32_t survivors = 0, tokens = 0;
  out.cu_seqlens[0] = 0;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const int64_t sample = batch.sample_index[b];
    if (batch.keep[b]) {
      tokens += batch.cu_seqlens[b + 1] - batch.cu_seqlens[b];
      out.sample_index[survivors] = batch.sample_index[b];
      out.speed[survivors] = batch.speed[b];
      out.history[2 * survivors] = batch.history[2 * b];
      out.history[2 * survivors + 1] = batch.history[2 * b + 1];
      out.cu_seqlens[++survivors] = tokens;
    } else {
      std::memcpy(results.logits + sample * batch.num_labels, batch.logits + b * batch.num_labels,
                  batch.num_labels * sizeof(float));
      results.uncertainty[sample] = batch.uncertainty[b];
      results.exit_layer[sample] = batch.layer;
    }
  }
  for (int64_t b = survivors; b < batch.batch; ++b) {
    out.sample_index[b] = 0;
    out.speed[b] = 0.0f;
    out.history[2 * b] = out.history[2 * b + 1] = 0;
    out.cu_seqlens[b + 1] = tokens;
  }
  out.counts[0] = survivors;
  out.counts[1] = tokens;

  const auto* source = static_cast<const char*>(batch.hidden);
  auto* destination = static_cast<char*>(out.hidden);
  // Samples move to the left or stay, so a running rank gives each its place; runs of neighbours that stay together are
  // one copy.
  const int64_t total_bytes = tokens * batch.row_bytes;
#pragma omp parallel if (total_bytes > (1 << 20))
#pragma omp single
  {
    int64_t written = 0;
    for (int64_t b = 0; b < batch.batch;) {
      if (!batch.keep[b]) {
        ++b;
        continue;
      }
      int64_t end = b + 1;
      while (end < batch.batch && batch.keep[end] && batch.cu_seqlens[end] - batch.cu_seqlens[b] < 256) ++end;
      const int64_t begin_row = batch.cu_seqlens[b], rows = batch.cu_seqlens[end] - begin_row;
      const char* from = source + begin_row * batch.row_bytes;
      char* to = destination + written * batch.row_bytes;
      const int64_t bytes = rows * batch.row_bytes;
#pragma omp task firstprivate(from, to, bytes)
      std::memcpy(to, from, bytes);
      written += rows;
      b = end;
    }
  }
}

}  // namespace fastbert::cpu
