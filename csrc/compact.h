// Compaction of a packed batch: samples with keep != 0 move together, in order; the results of the others are written
// to their place in the outputs of the whole batch.
//
//   survivors          = the samples with keep, in order
//   out.hidden         = their rows [T', H], T' tokens in all; rows from T' on are left as they were
//   out.cu_seqlens     = their prefix sums [B' + 1]; entries after B' repeat T'
//   out.sample_index   = their row in the original batch [B'];  out.speed = their Speed [B'];
//   out.history        = their prediction and streak [B', 2]; in all three, entries from B' on are 0
//   out.counts         = {B', T'}
//   for each leaving sample b, with s = sample_index[b]:
//     results.logits[s] = logits[b],  results.uncertainty[s] = uncertainty[b],  results.exit_layer[s] = layer
#pragma once
#include <cstdint>

#include "dtype.h"

namespace fastbert {

struct PackedBatch {
  const void* hidden;           // [T, H]
  const int32_t* cu_seqlens;    // [B + 1]
  const uint8_t* keep;          // [B]
  const int32_t* sample_index;  // [B]
  const float* speed;           // [B]
  const int32_t* history;       // [B, 2] prediction and streak (decision.h)
  const float* logits;          // [B, N]
  const float* uncertainty;     // [B]
  int64_t batch;                // B
  int64_t tokens;               // T
  int64_t row_bytes;            // H x element size
  int64_t num_labels;           // N
  int64_t layer;                // number of layers executed, 1..L
};

struct CompactedBatch {   // capacities are those of the batch that goes in
  void* hidden;           // [T, H]
  int32_t* cu_seqlens;    // [B + 1]
  int32_t* sample_index;  // [B]
  float* speed;           // [B]
  int32_t* history;       // [B, 2]
  int32_t* counts;        // [2]
};

struct Results {        // indexed by a sample's row in the original batch
  float* logits;        // [B0, N]
  float* uncertainty;   // [B0]
  int64_t* exit_layer;  // [B0]
  int64_t samples;      // B0
};

namespace cpu {
void compact(const PackedBatch& batch, const CompactedBatch& out, const Results& results);
}

namespace cuda {
// One launch on `stream` (a cudaStream_t) of device `device`, deterministic; returns a cudaError_t (0 on success). Where
// a bound leaves the T rows or a sample_index the original batch, nothing but the counts is written, and they are -1.
int compact(const PackedBatch& batch, const CompactedBatch& out, const Results& results, int device, void* stream);
}  // namespace cuda

}  // namespace fastbert
