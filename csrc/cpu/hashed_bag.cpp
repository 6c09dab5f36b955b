// Exit zero on a CPU: of every text 2 n - 1 short rows are read, from all over the table, and N logits are written.
#include "hashed_bag.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/decision.h"
#include "cpu/samples.h"

namespace fastbert::cpu {
namespace {

constexpr int64_t kBlockSamples = 8;

// By count, not measured: so few are done before another thread is awake.
constexpr int64_t kFewestTokens = 2048;

// out [N] = the sum of the rows of a text's tokens and pairs; `rows` has room for them.
void add_rows(const int64_t* ids, int64_t n, const HashedBag& bag, std::vector<const float*>& rows, float* out) {
  // All addresses first, so that the rows are on their way from memory together.
  rows.clear();
  const auto want = [&](uint32_t token, uint32_t following) {
    rows.push_back(bag.table + hashed_bucket(token, following, bag.buckets) * bag.num_labels);
    __builtin_prefetch(rows.back());
  };
  for (int64_t i = 0; i < n; ++i) {
    const auto token = static_cast<uint32_t>(ids[i]);
    want(token, 0);
    if (i + 1 < n) want(token, static_cast<uint32_t>(ids[i + 1]) + 1u);
  }
  std::fill(out, out + bag.num_labels, 0.0f);
  for (const float* row : rows)
    for (int64_t c = 0; c < bag.num_labels; ++c) out[c] += row[c];
}

}  // namespace

void hashed_bag(const int64_t* ids, const int32_t* cu_seqlens, int64_t batch, const HashedBag& bag,
                const Decision& decision, const DecisionOutputs& outputs) {
  const Alone alone(batch == 0 || cu_seqlens[batch] <= kFewestTokens);
  parallel_for_blocks(batch, kBlockSamples, [&](int64_t begin, int64_t end) {
    std::vector<const float*> rows;
    rows.reserve(2 * longest_sample(cu_seqlens + begin, end - begin));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t n = cu_seqlens[b + 1] - cu_seqlens[b];
      float* logits = outputs.logits + b * bag.num_labels;
      if (n > 0) {
        add_rows(ids + cu_seqlens[b], n, bag, rows, logits);
        const float scale = std::sqrt(static_cast<float>(2 * n - 1));
        for (int64_t c = 0; c < bag.num_labels; ++c) logits[c] = logits[c] / scale + bag.bias[c];
      } else {
        std::fill(logits, logits + bag.num_labels, NAN);
      }
      decide_sample(b, bag.num_labels, decision, outputs);
    }
  });
}

}  // namespace fastbert::cpu
