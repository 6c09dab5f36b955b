// Packing on a CPU: one pass over the ids, by the calling thread. A batch has a few thousand of them, which is less than
// it takes to wake another one.
#include "padded_texts.h"

namespace fastbert::cpu {
namespace {

bool outside(int64_t value, int64_t rows) { return static_cast<uint64_t>(value) >= static_cast<uint64_t>(rows); }

}  // namespace

int64_t pack(const PaddedTexts& texts, const TokenTables& tables, const PackedTexts& packed) {
  int64_t tokens = 0;
  packed.cu_seqlens[0] = 0;
  for (int64_t text = 0; text < texts.batch; ++text) {
    const int64_t before = tokens;
    int64_t first = 0, counted = 0;  // column of the first token, and tokens from there on that count
    for (int64_t column = 0; column < texts.length; ++column) {
      const int64_t place = text * texts.length + column;
      const int64_t id = texts.ids[place], segment = texts.segments ? texts.segments[place] : 0;
      if (outside(id, tables.vocabulary) || outside(segment, tables.segments)) return -1;
      const int64_t valid = texts.mask ? texts.mask[place] : 1;
      if (outside(valid, 2)) return -1;
      if (valid && tokens == before) first = column;
      const bool counts = id != tables.uncounted;
      if (valid || tokens > before) counted += counts;  // as the models count, also under padding between tokens
      if (!valid) continue;
      packed.ids[tokens] = id;
      packed.positions[tokens] =
          tables.uncounted < 0 ? column - first : tables.uncounted + (counts ? counted : int64_t{0});
      if (packed.segments) packed.segments[tokens] = segment;
      ++tokens;
    }
    if (tokens == before) return -1;
    packed.cu_seqlens[text + 1] = static_cast<int32_t>(tokens);
  }
  return tokens;
}

}  // namespace fastbert::cpu
