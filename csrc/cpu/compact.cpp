// Compaction on a CPU: one pass over the samples for the bookkeeping, then the rows of the survivors copied by all
// threads. Traffic: the survivors' rows are read once and written once.
#include "compact.h"

#include <cstring>
#include <vector>

#include "cpu/threads.h"

namespace fastbert::cpu {
namespace {

constexpr int64_t kCopyRows = 256;         // about; of one copy
constexpr int64_t kFewestBytes = 1 << 20;  // fewer are copied before another thread is awake

}  // namespace

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
  struct Copy {
    const char* from;
    char* to;
    int64_t bytes;
  };
  std::vector<Copy> copies;
  int64_t written = 0;
  for (int64_t b = 0; b < batch.batch;) {
    if (!batch.keep[b]) {
      ++b;
      continue;
    }
    int64_t end = b + 1;
    while (end < batch.batch && batch.keep[end] && batch.cu_seqlens[end] - batch.cu_seqlens[b] < kCopyRows) ++end;
    const int64_t begin_row = batch.cu_seqlens[b], rows = batch.cu_seqlens[end] - begin_row;
    copies.push_back(
        {source + begin_row * batch.row_bytes, destination + written * batch.row_bytes, rows * batch.row_bytes});
    written += rows;
    b = end;
  }
  const Alone alone(tokens * batch.row_bytes <= kFewestBytes);
  parallel_for(static_cast<int64_t>(copies.size()),
               [&](int64_t i) { std::memcpy(copies[i].to, copies[i].from, copies[i].bytes); });
}

}  // namespace fastbert::cpu
