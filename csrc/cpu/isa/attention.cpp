// Self-attention of one head of one sample: softmax(Q K^T / sqrt(d)) V. Keys and values are brought into the layout of
// packed matrices, and both products are those of tile.h, in float32 or, for bfloat16 rows, with the processor's bfloat16
// products; the scores of six queries at a time stay in the first-level cache.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"
#include "cpu/isa/tile.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

inline int64_t panels_of(int64_t columns) { return (columns + kPanelWidth - 1) / kPanelWidth; }

// Where one head's rows lie: part 0 is the query, 1 the key, 2 the value.
struct HeadRows {
  const AttentionHead& head;

  const void* row(int64_t part, int64_t j) const {
    return element_at(head.query, head.dtype, part * head.offset + j * head.stride);
  }
  const float* row_as_float(int64_t part, int64_t j, float* buffer) const {
    return as_float(row(part, j), head.dtype, head.head_size, buffer);
  }
  template <class T>
  const T* row_as(int64_t part, int64_t j) const {
    return static_cast<const T*>(row(part, j));
  }
};

// What a tile reads, for each operand.
//   keys    K^T: panels of kPanelWidth keys, [d / group] [kPanelWidth] [group] each
//   values  V: panels of kPanelWidth columns, [n / group] [kPanelWidth] [group] each
//   queries kTileRows rows
//   shares  the attention weights, [kTileRows, n rounded up to panels], which take the place of the scores
struct FloatAttention {
  using Tile = FloatTile;
  static constexpr int64_t kGroup = 1;

  static void pack_key(const HeadRows& rows, int64_t j, float* keys, float* buffer) {
    const int64_t d = rows.head.head_size;
    const float* key = rows.row_as_float(1, j, buffer);
    float* column = keys + j / kPanelWidth * kPanelWidth * d + j % kPanelWidth;
    for (int64_t k = 0; k < d; ++k) column[k * kPanelWidth] = key[k];
  }
  static void pack_values(const HeadRows& rows, int64_t j, int64_t first, int64_t columns, float* panel,
                          float* buffer) {
    std::memcpy(panel + j * kPanelWidth, rows.row_as_float(2, j, buffer) + first, columns * sizeof(float));
  }
  static const float* query(const HeadRows& rows, int64_t begin, int64_t count, float* queries, int64_t* stride) {
    const int64_t d = *stride = rows.head.head_size;
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows.row_as_float(0, begin + r, queries + r * d);
      if (row != queries + r * d) std::memcpy(queries + r * d, row, d * sizeof(float));
    }
    return queries;
  }
  static const float* shares(float* scores, int64_t n, float scale) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) scores[j] *= scale;
    return scores;
  }
};

#if defined(__AVX512BF16__)
struct Bfloat16Attention {
  using Tile = Bfloat16Tile;
  static constexpr int64_t kGroup = 2;

  // Two values move as one.
  static void pack_key(const HeadRows& rows, int64_t j, uint16_t* keys, float*) {
    const int64_t d = rows.head.head_size;
    const auto* key = rows.row_as<uint16_t>(1, j);
    uint16_t* column = keys + j / kPanelWidth * kPanelWidth * d + j % kPanelWidth * 2;
    for (int64_t k = 0; k < d; k += 2) std::memcpy(column + k * kPanelWidth, key + k, 2 * sizeof(uint16_t));
  }
  static void pack_values(const HeadRows& rows, int64_t j, int64_t first, int64_t columns, uint16_t* panel, float*) {
    const auto* value = rows.row_as<uint16_t>(2, j) + first;
    uint16_t* to = panel + j / 2 * 2 * kPanelWidth + j % 2;
    for (int64_t c = 0; c < columns; ++c) to[2 * c] = value[c];
  }
  static const uint16_t* query(const HeadRows& rows, int64_t begin, int64_t, float*, int64_t* stride) {
    *stride = rows.head.stride;
    return rows.row_as<uint16_t>(0, begin);
  }
  // In place: a value is read before anything is written over it.
  static const uint16_t* shares(float* scores, int64_t n, float scale) {
    auto* out = reinterpret_cast<uint16_t*>(scores);
    float piece[kLanes];
    for (int64_t begin = 0; begin < n; begin += kLanes) {
      const int64_t count = n - begin < kLanes ? n - begin : kLanes;
      for (int64_t j = 0; j < count; ++j) piece[j] = scores[begin + j] * scale;
      store_as(out + begin, DType::bfloat16, piece, count);
    }
    if (n % 2 != 0) out[n] = 0;  // the half pair at the end
    return out;
  }
};
#endif

struct AttentionScratch {
  float* keys;
  float* values;
  float* scores;
  float* queries;
  float* row;
};

inline AttentionScratch divide(float* memory, int64_t n, int64_t d) {
  float* values = memory + panels_of(n) * kPanelWidth * d;
  float* scores = values + panels_of(d) * kPanelWidth * (n + 1);
  float* queries = scores + kTileRows * panels_of(n) * kPanelWidth;
  return {memory, values, scores, queries, queries + kTileRows * d};
}

template <class Operand>
void attend(const AttentionHead& head, float* memory) {
  using Row = typename Operand::Tile::Row;
  const HeadRows rows{head};
  const int64_t n = head.n, d = head.head_size, padded = panels_of(n) * kPanelWidth;
  const int64_t depth = (n + Operand::kGroup - 1) / Operand::kGroup * Operand::kGroup;
  const AttentionScratch scratch = divide(memory, n, d);
  auto* keys = reinterpret_cast<Row*>(scratch.keys);
  auto* values = reinterpret_cast<Row*>(scratch.values);
  // A row of one head is a line or two of each row of the matrix, which no prefetcher of the processor guesses.
  for (int64_t j = 0; j < n; ++j)
    for (int64_t part = 0; part < 3; ++part) prefetch<0>(rows.row(part, j), head.dtype, d);
  // What lies past the last key, value or column has to be numbers; the scores there are never read.
  std::memset(keys + (panels_of(n) - 1) * kPanelWidth * d, 0, kPanelWidth * d * sizeof(Row));
  std::memset(values, 0, panels_of(d) * kPanelWidth * depth * sizeof(Row));
  for (int64_t j = 0; j < n; ++j) {
    Operand::pack_key(rows, j, keys, scratch.row);
    for (int64_t first = 0; first < d; first += kPanelWidth)
      Operand::pack_values(rows, j, first, d - first < kPanelWidth ? d - first : kPanelWidth, values + first * depth,
                           scratch.row);
  }

  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
  alignas(64) float sums[kTileRows * kPanelWidth];
  for (int64_t begin = 0; begin < n; begin += kTileRows) {
    const int64_t count = n - begin < kTileRows ? n - begin : kTileRows;
    int64_t stride;
    const Row* queries = Operand::query(rows, begin, count, scratch.queries, &stride);
    for (int64_t first = 0; first < n; first += kPanelWidth)
      run_tile<typename Operand::Tile>(count, queries, stride, keys + first * d, d, scratch.scores + first, padded);
    const Row* shares = nullptr;
    for (int64_t r = count - 1; r >= 0; --r) {
      float* scores = scratch.scores + r * padded;
      shares = Operand::shares(scores, n, 1.0f / exponentials(scores, n, scale));
    }
    for (int64_t first = 0; first < d; first += kPanelWidth) {
      run_tile<typename Operand::Tile>(count, shares, padded * (sizeof(float) / sizeof(Row)), values + first * depth,
                                       depth, sums, kPanelWidth);
      const int64_t columns = d - first < kPanelWidth ? d - first : kPanelWidth;
      for (int64_t r = 0; r < count; ++r) {
        char* out = static_cast<char*>(head.context);
        const int64_t index = (begin + r) * head.context_stride + first;
        store_as(out + index * (head.dtype == DType::float32 ? 4 : 2), head.dtype, sums + r * kPanelWidth, columns);
      }
    }
  }
}

}  // namespace

int64_t self_attention_scratch(int64_t n, int64_t head_size) {
  return kPanelWidth * (panels_of(n) * (head_size + kTileRows) + panels_of(head_size) * (n + 1)) +
         (kTileRows + 1) * head_size;
}

void self_attention(const AttentionHead& head, float* memory) {
#if defined(__AVX512BF16__)
  if (head.dtype == DType::bfloat16 && head.head_size % 2 == 0) return attend<Bfloat16Attention>(head, memory);
#endif
  attend<FloatAttention>(head, memory);
}

}  // namespace fastbert::cpu::FASTBERT_ISA
