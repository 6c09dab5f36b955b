// Self-attention of one head of one sample: softmax((Q K^T + p) / sqrt(d)) V, p of the distance from query to key. Keys and values are brought into the layout of
// packed matrices, and both products are those of an operand (operand.h); the scores of a tile of queries stay in the
// first-level cache.
#include "cpu/isa/functions.h"
#include "cpu/isa/math.h"
#include "cpu/isa/operand.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

// Where one head's rows lie: part 0 is the query, 1 the key, 2 the value.
struct HeadRows {
  const AttentionHead& head;

  const void* row(int64_t part, int64_t j) const {
    return element_at(head.query, head.dtype, part * head.offset + j * head.stride);
  }
  template <class Operand>
  const typename Operand::Row* read(int64_t part, int64_t j, typename Operand::Row* buffer) const {
    return Operand::read(row(part, j), head.dtype, head.head_size, buffer);
  }
};

// Columns of 4-byte elements become rows: out[k][j] = row_j[k] for kBlock rows and as many elements from `offset` bytes on.
#if defined(__AVX512F__)
constexpr int64_t kBlock = 16;

inline void transpose_block(const char* const* rows, int64_t offset, char* out, int64_t out_stride) {
  __m512i x[16], y[16];
  for (int j = 0; j < 16; ++j) x[j] = _mm512_loadu_si512(rows[j] + offset);
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
#elif defined(__AVX2__)
constexpr int64_t kBlock = 8;

inline __m128i four_elements(const char* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

inline void transpose_block(const char* const* rows, int64_t offset, char* out, int64_t out_stride) {
  for (int half = 0; half < 2; ++half, offset += 16, out += 4 * out_stride) {
    __m256i x[4], y[4], z[4];
    for (int j = 0; j < 4; ++j)  // rows j and j + 4, so that nothing below crosses the middle of a register
      x[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(four_elements(rows[j] + offset)),
                                     four_elements(rows[j + 4] + offset), 1);
    for (int j = 0; j < 4; j += 2) {  // pairs of elements, of two rows
      y[j] = _mm256_unpacklo_epi32(x[j], x[j + 1]);
      y[j + 1] = _mm256_unpackhi_epi32(x[j], x[j + 1]);
    }
    for (int i = 0; i < 2; ++i) {  // one element of four rows
      z[2 * i] = _mm256_unpacklo_epi64(y[i], y[2 + i]);
      z[2 * i + 1] = _mm256_unpackhi_epi64(y[i], y[2 + i]);
    }
    for (int k = 0; k < 4; ++k) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k * out_stride), z[k]);
  }
}
#else
constexpr int64_t kBlock = 4;

inline void transpose_block(const char* const* rows, int64_t offset, char* out, int64_t out_stride) {
  for (int64_t k = 0; k < kBlock; ++k)
    for (int64_t j = 0; j < kBlock; ++j) std::memcpy(out + k * out_stride + 4 * j, rows[j] + offset + 4 * k, 4);
}
#endif

// One panel of K^T: `width` 4-byte elements (values, or pairs of 16-bit ones) of `count` <= kPanelWidth rows, whose element
// k goes to out[k][row].
inline void transpose(const char* const* rows, int64_t count, int64_t width, char* out) {
  constexpr int64_t kStride = 4 * kPanelWidth;
  for (int64_t j = 0; j < count; j += kBlock) {
    const char* block[kBlock];
    for (int64_t i = 0; i < kBlock; ++i) block[i] = rows[j + i < count ? j + i : j];  // any row will do past the end
    int64_t k = 0;
    for (; k + kBlock <= width; k += kBlock) transpose_block(block, 4 * k, out + k * kStride + 4 * j, kStride);
    for (; k < width; ++k)
      for (int64_t i = 0; i < kBlock; ++i) std::memcpy(out + k * kStride + 4 * (j + i), block[i] + 4 * k, 4);
  }
}

// Sizes of one head for an operand.
template <class Operand>
struct AttentionSizes {
  AttentionSizes(int64_t n, int64_t head_size)
      : d(round_up(head_size, Operand::kStep)),
        depth(round_up(n, Operand::kStep)),
        keys(panels_of(n) * kPanelWidth),
        columns(panels_of(head_size) * kPanelWidth) {}

  int64_t scratch() const {
    return keys * d + columns * depth + Operand::kTileRows * (keys + d) +
           kPanelWidth * d;  // as AttentionScratch has it
  }

  int64_t d, depth;       // depths of the product with the keys, and of that with the values
  int64_t keys, columns;  // n and the head's size, in whole panels
};

// In floats, of which 16-bit operands use half.
template <class Operand>
struct AttentionScratch {
  using Row = typename Operand::Row;

  AttentionScratch(const AttentionSizes<Operand>& sizes, float* memory) {
    float* const behind_keys = memory + sizes.keys * sizes.d;
    float* const behind_values = behind_keys + sizes.columns * sizes.depth;
    float* const behind_scores = behind_values + Operand::kTileRows * sizes.keys;
    keys = reinterpret_cast<Row*>(memory);
    values = reinterpret_cast<Row*>(behind_keys);
    scores = behind_values;
    queries = reinterpret_cast<Row*>(behind_scores);
    rows = reinterpret_cast<Row*>(behind_scores + Operand::kTileRows * sizes.d);
  }

  Row* keys;      // K^T: panels of kPanelWidth keys, [d / group] [kPanelWidth] [group] each
  Row* values;    // V: panels of kPanelWidth columns, [depth / group] [kPanelWidth] [group] each
  float* scores;  // [kTileRows, keys], which the attention weights take the place of
  Row* queries;   // [kTileRows, d]
  Row* rows;      // [kPanelWidth, d] converted
};

// What lies past the last row of the depth has to be zeros. Past the last key nothing need be: those scores are never read.
template <class Operand>
void pack_keys(const HeadRows& rows, int64_t depth, typename Operand::Row* buffer, typename Operand::Row* keys) {
  constexpr int64_t kGroup = Operand::kGroup;
  const int64_t n = rows.head.n, d = rows.head.head_size;
  for (int64_t first = 0; first < n; first += kPanelWidth, keys += kPanelWidth * depth) {
    const int64_t count = n - first < kPanelWidth ? n - first : kPanelWidth;
    const char* panel[kPanelWidth];
    // Values are needed next.
    for (int64_t j = 0; j < count; ++j) prefetch<0>(rows.row(2, first + j), d * element_bytes(rows.head.dtype));
    for (int64_t j = 0; j < count; ++j)
      panel[j] = reinterpret_cast<const char*>(rows.read<Operand>(1, first + j, buffer + j * d));
    transpose(panel, count, d / kGroup, reinterpret_cast<char*>(keys));
    std::memset(keys + d * kPanelWidth, 0, (depth - d) * kPanelWidth * sizeof(*keys));
  }
}

// The same of columns and rows of values. The last group may have more than the rows that are left: their share is 0.
template <class Operand>
void pack_values(const HeadRows& rows, int64_t depth, typename Operand::Row* buffer, typename Operand::Row* values) {
  constexpr int64_t kGroup = Operand::kGroup;
  const int64_t n = rows.head.n, d = rows.head.head_size;
  if (d % kPanelWidth != 0 || depth > round_up(n, kGroup))
    std::memset(values, 0, panels_of(d) * kPanelWidth * depth * sizeof(*values));
  for (int64_t j = 0; j < n; j += kGroup) {
    const typename Operand::Row* group[kGroup];
    for (int64_t i = 0; i < kGroup; ++i) group[i] = rows.read<Operand>(2, j + i < n ? j + i : n - 1, buffer + i * d);
    for (int64_t first = 0; first < d; first += kPanelWidth) {
      Operand::interleave(group, d - first < kPanelWidth ? d - first : kPanelWidth,
                          values + first * depth + j * kPanelWidth);
      for (int64_t i = 0; i < kGroup; ++i) group[i] += kPanelWidth;
    }
  }
}

// scores [count, stride] of the queries from `first` on and n keys; `bias` as of AttentionHead. Not inlined: the loops of
// `attend` are to be compiled as they are without it.
__attribute__((noinline)) void add_position_bias(const float* bias, int64_t first, int64_t count, int64_t n,
                                                 float* scores, int64_t stride) {
  for (int64_t r = 0; r < count; ++r) {
    const float* of_keys = bias - (first + r);
    float* row = scores + r * stride;
    for (int64_t j = 0; j < n; ++j) row[j] += of_keys[j];
  }
}

template <class Operand>
void attend(const AttentionHead& head, float* memory) {
  using Row = typename Operand::Row;
  constexpr int64_t kTileRows = Operand::kTileRows;
  const HeadRows rows{head};
  const int64_t n = head.n, d = head.head_size;
  const AttentionSizes<Operand> sizes(n, d);
  const AttentionScratch<Operand> scratch(sizes, memory);
  // A row of one head is a line or two of each row of the matrix, which no prefetcher of the processor guesses. Each is
  // fetched a while before its turn: all at once are more than the first-level cache holds.
  for (int64_t j = 0; j < n; ++j) prefetch<0>(rows.row(1, j), d * element_bytes(head.dtype));
  pack_keys<Operand>(rows, sizes.d, scratch.rows, scratch.keys);
  for (int64_t r = 0; r < n && r < kTileRows; ++r) prefetch<0>(rows.row(0, r), d * element_bytes(head.dtype));
  pack_values<Operand>(rows, sizes.depth, scratch.rows, scratch.values);

  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
  Operand operand;
  alignas(64) float sums[kTileRows * kPanelWidth];
  for (int64_t begin = 0; begin < n; begin += kTileRows) {
    const int64_t count = n - begin < kTileRows ? n - begin : kTileRows;
    for (int64_t r = 0; r < count; ++r) {
      Row* to = scratch.queries + r * sizes.d;
      const Row* query = rows.read<Operand>(0, begin + r, to);
      if (query != to) std::memcpy(to, query, d * sizeof(Row));
      for (int64_t k = d; k < sizes.d; ++k) to[k] = 0;
    }
    for (int64_t r = begin + count; r < n && r < begin + count + kTileRows; ++r)
      prefetch<0>(rows.row(0, r), d * element_bytes(head.dtype));
    for (int64_t first = 0; first < n; first += kPanelWidth)
      operand.run(count, scratch.queries, sizes.d, scratch.keys + first * sizes.d, sizes.d, scratch.scores + first,
                  sizes.keys);
    if (head.position_bias != nullptr)
      add_position_bias(head.position_bias, begin, count, n, scratch.scores, sizes.keys);
    const Row* shares = nullptr;
    float scales[kTileRows];
    for (int64_t r = 0; r < count; ++r) scales[r] = 1.0f / exponentials(scratch.scores + r * sizes.keys, n, scale);
    for (int64_t r = count - 1; r >= 0; --r)
      shares = Operand::shares(scratch.scores + r * sizes.keys, n, sizes.depth, scales[r]);
    for (int64_t first = 0; first < d; first += kPanelWidth) {
      operand.run(count, shares, sizes.keys * static_cast<int64_t>(sizeof(float) / sizeof(Row)),
                  scratch.values + first * sizes.depth, sizes.depth, sums, kPanelWidth);
      for (int64_t r = 0; r < count; ++r) {
        void* out =
            static_cast<char*>(head.context) + ((begin + r) * head.context_stride + first) * element_bytes(head.dtype);
        if (d - first >= kPanelWidth) {
          store_as(out, head.dtype, sums + r * kPanelWidth, kPanelWidth);  // a count that the compiler knows
        } else {
          store_as(out, head.dtype, sums + r * kPanelWidth, d - first);
        }
      }
    }
  }
}

}  // namespace

int64_t self_attention_scratch(int64_t n, int64_t head_size) {
  const auto scratch = [&](DType operand) {
    return with_attention_operand(operand, head_size, [&](auto chosen) {
      return AttentionSizes<typename decltype(chosen)::type>(n, head_size).scratch();
    });
  };
  const int64_t single = scratch(DType::float32), half = scratch(DType::bfloat16);
  return single > half ? single : half;
}

void self_attention(const AttentionHead& head, float* memory) {
  with_attention_operand(head.operand, head.head_size,
                         [&](auto chosen) { attend<typename decltype(chosen)::type>(head, memory); });
}

}  // namespace fastbert::cpu::FASTBERT_ISA
