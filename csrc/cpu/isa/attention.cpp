// Self-attention of one head of one sample, in float32: softmax(Q K^T / sqrt(d)) V. Keys and values are brought into the
// layout of packed matrices, and both products are those of tile.h; the scores of six queries at a time stay in the
// first-level cache.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"
#include "cpu/isa/tile.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

inline int64_t panels_of(int64_t columns) { return (columns + kPanelWidth - 1) / kPanelWidth; }

struct AttentionScratch {
  float* keys;    // K^T: panels of kPanelWidth keys, [d, kPanelWidth] each
  float* values;  // V: panels of kPanelWidth columns, [n, kPanelWidth] each
  float* scores;  // [kTileRows, n rounded up to panels]
  float* query;   // [kTileRows, d]
  float* row;     // [d]
};

inline AttentionScratch divide(float* memory, int64_t n, int64_t d) {
  float* values = memory + panels_of(n) * kPanelWidth * d;
  float* scores = values + panels_of(d) * kPanelWidth * n;
  float* query = scores + kTileRows * panels_of(n) * kPanelWidth;
  return {memory, values, scores, query, query + kTileRows * d};
}

}  // namespace

int64_t self_attention_scratch(int64_t n, int64_t head_size) {
  return kPanelWidth * (panels_of(n) * (head_size + kTileRows) + panels_of(head_size) * n) +
         (kTileRows + 1) * head_size;
}

void self_attention(const AttentionHead& head, float* memory) {
  const int64_t n = head.n, d = head.head_size, padded = panels_of(n) * kPanelWidth;
  const AttentionScratch scratch = divide(memory, n, d);
  const auto row_at = [&](int64_t part, int64_t j, float* buffer) {  // part: 0 query, 1 key, 2 value
    return as_float(element_at(head.query, head.dtype, part * head.offset + j * head.stride), head.dtype, d, buffer);
  };
  // A row of one head is a line or two of each row of the matrix, which no prefetcher of the processor guesses.
  for (int64_t j = 0; j < n; ++j)
    for (int64_t part = 0; part < 3; ++part)
      prefetch<0>(element_at(head.query, head.dtype, part * head.offset + j * head.stride), head.dtype, d);
  for (int64_t j = 0; j < padded; ++j) {
    float* column = scratch.keys + j / kPanelWidth * kPanelWidth * d + j % kPanelWidth;
    const float* key = j < n ? row_at(1, j, scratch.row) : nullptr;
    for (int64_t k = 0; k < d; ++k) column[k * kPanelWidth] = key ? key[k] : 0.0f;
  }
  for (int64_t j = 0; j < n; ++j) {
    const float* value = row_at(2, j, scratch.row);
    for (int64_t panel = 0; panel < panels_of(d); ++panel) {
      float* to = scratch.values + (panel * n + j) * kPanelWidth;
      const int64_t begin = panel * kPanelWidth;
      const int64_t columns = d - begin < kPanelWidth ? d - begin : kPanelWidth;
      std::memcpy(to, value + begin, columns * sizeof(float));
      std::memset(to + columns, 0, (kPanelWidth - columns) * sizeof(float));
    }
  }

  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
  alignas(64) float sums[kTileRows * kPanelWidth];
  for (int64_t begin = 0; begin < n; begin += kTileRows) {
    const int64_t rows = n - begin < kTileRows ? n - begin : kTileRows;
    for (int64_t r = 0; r < rows; ++r) {
      const float* query = row_at(0, begin + r, scratch.query + r * d);
      if (head.dtype == DType::float32) std::memcpy(scratch.query + r * d, query, d * sizeof(float));
    }
    for (int64_t panel = 0; panel < panels_of(n); ++panel)
      run_tile<FloatTile>(rows, scratch.query, d, scratch.keys + panel * kPanelWidth * d, d,
                          scratch.scores + panel * kPanelWidth, padded);
    for (int64_t r = 0; r < rows; ++r) {
      float* scores = scratch.scores + r * padded;
      const float share = 1.0f / exponentials(scores, n, scale);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) scores[j] *= share;
    }
    for (int64_t panel = 0; panel < panels_of(d); ++panel) {
      run_tile<FloatTile>(rows, scratch.scores, padded, scratch.values + panel * n * kPanelWidth, n, sums, kPanelWidth);
      const int64_t first = panel * kPanelWidth;
      const int64_t columns = d - first < kPanelWidth ? d - first : kPanelWidth;
      for (int64_t r = 0; r < rows; ++r) {
        char* out = static_cast<char*>(head.context);
        const int64_t index = (begin + r) * head.context_stride + first;
        store_as(out + index * (head.dtype == DType::float32 ? 4 : 2), head.dtype, sums + r * kPanelWidth, columns);
      }
    }
  }
}

}  // namespace fastbert::cpu::FASTBERT_ISA
