// From texts padded to one length to packed rows: which tokens there are, and the position of each.
#pragma once
#include <cstdint>

namespace fastbert {

struct PaddedTexts {
  const int64_t* ids;       // [B, L]
  const int64_t* mask;      // [B, L], 1 for a token and 0 for padding, on any side; nullptr: no padding
  const int64_t* segments;  // [B, L], or nullptr: all 0
  int64_t batch;            // B
  int64_t length;           // L
};

// What a model's tables have, and how its positions count.
struct TokenTables {
  int64_t vocabulary;
  int64_t segments;   // 1 where there is no table
  int64_t uncounted;  // id whose tokens have that number for their position, behind which those of the others begin,
                      // as in RoBERTa's family; -1: positions are columns, from the first token of the text on
};

struct PackedTexts {
  int64_t* ids;         // [T], room for B x L
  int64_t* positions;   // [T], room for B x L
  int64_t* segments;    // [T], room for B x L; nullptr where none are given, or there is one segment only
  int32_t* cu_seqlens;  // [B + 1]
};

namespace cpu {
// Returns T; -1, with the outputs half written, where the mask has another value or no token for a text, or an id or
// segment is outside its table (an id also under padding).
int64_t pack(const PaddedTexts& texts, const TokenTables& tables, const PackedTexts& packed);
}  // namespace cpu

}  // namespace fastbert
