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

// Columns of 4-byte elements become rows: out[k][j] = row_j[k] for 16 rows and 16 elements.
#if defined(__AVX512F__)
constexpr int64_t kBlock = 16;

inline void transpose_block(const char* const* rows, char* out, int64_t out_stride) {
  __m512i x[16], y[16];
  for (int j = 0; j < 16; ++j) x[j] = _mm512_loadu_si512(rows[j]);
  for (int j = 0; j < 16; j += 2) {  // pairs of elements, of two rows
    y[j] = _mm512_unpacklo_epi32(x[j], x[j + 1]);
    y[j + 1] = _mm512_unpackhi_epi32(x[j], x[j + 1]);
  }
  for (int j = 0; j < 16; j += 4)  // one element of four rows in each quarter
    for (int i = 0; i < 2; ++i) {
      x[j + 2 * i] = _mm512_unpacklo_epi64(y[j + i], y[j + 2 + i]);
      x[j + 2 * i + 1] = _mm512_unpackhi_epi64(y[j + i], y[j + 2 + i]);
    }
  for (int i = 0; i < 4; ++i) {  // quarters of two groups of four rows, then of all four
    y[i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88);
    y[4 + i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
    y[8 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88);
    y[12 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(out + (0 + i) * out_stride, _mm512_shuffle_i32x4(y[i], y[8 + i], 0x88));
    _mm512_storeu_si512(out + (8 + i) * out_stride, _mm512_shuffle_i32x4(y[i], y[8 + i], 0xdd));
    _mm512_storeu_si512(out + (4 + i) * out_stride, _mm512_shuffle_i32x4(y[4 + i], y[12 + i], 0x88));
    _mm512_storeu_si512(out + (12 + i) * out_stride, _mm512_shuffle_i32x4(y[4 + i], y[12 + i], 0xdd));
  }
}
#else
constexpr int64_t kBlock = 4;

inline void transpose_block(const char* const* rows, char* out, int64_t out_stride) {
  for (int64_t k = 0; k < kBlock; ++k)
    for (int64_t j = 0; j < kBlock; ++j) std::memcpy(out + k * out_stride + 4 * j, rows[j] + 4 * k, 4);
}
#endif

// One panel of K^T: `width` 4-byte elements (values, or pairs of 16-bit ones) of `count` <= kPanelWidth rows, whose element
// k goes to out[k][row].
inline void transpose(const char* const* rows, int64_t count, int64_t width, char* out) {
  constexpr int64_t kStride = 4 * kPanelWidth;
  for (int64_t j = 0; j < count; j += kBlock)
    for (int64_t k = 0; k < width; k += kBlock) {
      const char* block[kBlock];
      for (int64_t i = 0; i < kBlock; ++i)
        block[i] = rows[j + i < count ? j + i : j] + 4 * k;  // any row will do past the end
      if (k + kBlock <= width) {
        transpose_block(block, out + k * kStride + 4 * j, kStride);
      } else {
        for (int64_t r = k; r < width; ++r)
          for (int64_t i = 0; i < kBlock; ++i)
            std::memcpy(out + r * kStride + 4 * (j + i), rows[j + i < count ? j + i : j] + 4 * r, 4);
      }
    }
}

// What a tile reads, for each operand.
//   keys    K^T: panels of kPanelWidth keys, [d / group] [kPanelWidth] [group] each
//   values  V: panels of kPanelWidth columns, [n / group] [kPanelWidth] [group] each
//   queries kTileRows rows
//   shares  the attention weights, [kTileRows, n rounded up to panels], which take the place of the scores
struct FloatAttention {
  using Tile = FloatTile;
  static constexpr int64_t kGroup = 1;

  // Row j of a part as float32; converted rows go to `buffer` [kPanelWidth, d].
  static const char* key(const HeadRows& rows, int64_t j, float* buffer) {
    return reinterpret_cast<const char*>(rows.row_as_float(1, j, buffer + j % kPanelWidth * rows.head.head_size));
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

  static const char* key(const HeadRows& rows, int64_t j, float*) { return rows.row_as<char>(1, j); }
  // Rows j and j + 1, value by value beside each other. Behind the last row comes itself: its share is 0.
  static void pack_values(const HeadRows& rows, int64_t j, int64_t first, int64_t columns, uint16_t* panel, float*) {
    const auto* even = rows.row_as<uint16_t>(2, j) + first;
    const auto* odd = rows.row_as<uint16_t>(2, j + 1 < rows.head.n ? j + 1 : j) + first;
    auto* to = reinterpret_cast<uint32_t*>(panel + j * kPanelWidth);
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) to[c] = even[c] | static_cast<uint32_t>(odd[c]) << 16;
  }
  static const uint16_t* query(const HeadRows& rows, int64_t begin, int64_t, float*, int64_t* stride) {
    *stride = rows.head.stride;
    return rows.row_as<uint16_t>(0, begin);
  }
  // In place: a value is read before anything is written over it.
  static const uint16_t* shares(float* scores, int64_t n, float scale) {
    auto* out = reinterpret_cast<uint16_t*>(scores);
    for (int64_t begin = 0; begin < n; begin += kLanes) {  // the last piece reaches into the padding
      float piece[kLanes];
      for (int j = 0; j < kLanes; ++j) piece[j] = scores[begin + j] * scale;
      store_as(out + begin, DType::bfloat16, piece, kLanes);
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
  float* rows;  // [kPanelWidth, d] converted
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
  // What lies past the last value or column has to be numbers. Past the last key it need not: those scores are never read.
  std::memset(values, 0, panels_of(d) * kPanelWidth * depth * sizeof(Row));
  for (int64_t first = 0; first < n; first += kPanelWidth) {
    const int64_t count = n - first < kPanelWidth ? n - first : kPanelWidth;
    const char* panel[kPanelWidth];
    for (int64_t j = 0; j < count; ++j) panel[j] = Operand::key(rows, first + j, scratch.rows);
    transpose(panel, count, d / Operand::kGroup, reinterpret_cast<char*>(keys + first * d));
  }
  for (int64_t j = 0; j < n; j += Operand::kGroup)
    for (int64_t first = 0; first < d; first += kPanelWidth)
      Operand::pack_values(rows, j, first, d - first < kPanelWidth ? d - first : kPanelWidth, values + first * depth,
                           scratch.rows);

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
         (kTileRows + kPanelWidth) * head_size;
}

void self_attention(const AttentionHead& head, float* memory) {
#if defined(__AVX512BF16__)
  if (head.dtype == DType::bfloat16 && head.head_size % 2 == 0) return attend<Bfloat16Attention>(head, memory);
#endif
  attend<FloatAttention>(head, memory);
}

}  // namespace fastbert::cpu::FASTBERT_ISA
