// Compaction of a packed batch in one launch: csrc/compact.h says what goes where.
//
// Launch: a few blocks a multiprocessor, each with an equal share of the rows, to copy, and an equal share of the
// samples, whose state it writes. A block finds where its shares go on its own: it runs over keep and cu_seqlens of the
// whole batch (9 bytes a sample, from the L2 cache) and adds up the survivors before its shares. No block waits for
// another, no scratch memory is needed, and since every output has one writer the result is the same each time. Against
// a scan in a launch of its own this costs (blocks x 9 x B) bytes of L2 reads, less than the rows themselves as long as
// a sample has a few tokens.
//
// The rows are shared out evenly, whatever the samples' lengths, so one long sample does not hold up the rest. Within a
// share a warp copies a row at a time, 16 bytes a lane.
//
// Memory traffic: surviving rows once in and once out; results of leaving samples once in and once out.
#include "../compact.h"
#include "device.cuh"
#include "device_limits.cuh"
#include "sample_rows.cuh"

namespace fastbert::cuda {
namespace {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int BLOCKS_PER_MULTIPROCESSOR = 4;
constexpr int UNITS_IN_FLIGHT = 4;  // loads that a lane starts before it stores the first

// The sums of a block over the whole batch.
enum Sum {
  SURVIVORS,         // B'
  TOKENS,            // T'
  SURVIVORS_BEFORE,  // those before its share of the samples
  TOKENS_BEFORE,     // and their tokens
  ROW_SAMPLE,        // samples that end at or before the first row of its share: the index of that row's sample
  ROW_TOKENS,        // surviving tokens of those
  OUTSIDE,           // samples with bounds outside of the rows, or a place outside of the original batch
  SUMS
};

struct Scan {
  int64_t before;  // sum over the threads before this one
  int64_t total;   // sum over the block
};

__device__ __forceinline__ Scan scan_block(int64_t value, int64_t* warp_totals) {
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  int64_t sum = value;
#pragma unroll
  for (int offset = 1; offset < WARP_SIZE; offset *= 2) {
    const int64_t left = __shfl_up_sync(FULL_WARP, sum, offset);
    if (lane >= offset) sum += left;
  }
  if (lane == WARP_SIZE - 1) warp_totals[warp] = sum;
  __syncthreads();
  Scan scan = {sum - value, 0};
#pragma unroll
  for (int i = 0; i < WARPS; ++i) {
    if (i < warp) scan.before += warp_totals[i];
    scan.total += warp_totals[i];
  }
  __syncthreads();
  return scan;
}

// Survivors and their tokens in one word, so that one scan does for both.
__device__ __forceinline__ int64_t pack(int survivors, int tokens) {
  return static_cast<int64_t>(survivors) << 32 | tokens;
}
__device__ __forceinline__ int survivors_of(int64_t packed) { return static_cast<int>(packed >> 32); }
__device__ __forceinline__ int tokens_of(int64_t packed) { return static_cast<int>(packed & 0xffffffff); }

// sums[Sum] over the whole batch, in shared memory.
__device__ __forceinline__ void sum_batch(const PackedBatch& batch, int64_t original, int sample_begin, int row_begin,
                                          int* sums, int (*warp_sums)[WARPS]) {
  const int samples = static_cast<int>(batch.batch);
  const int tokens = static_cast<int>(batch.tokens);
  int sum[SUMS] = {};
#pragma unroll 4
  for (int sample = threadIdx.x; sample < samples; sample += THREADS) {
    const int begin = __ldg(batch.cu_seqlens + sample);
    const int end = __ldg(batch.cu_seqlens + sample + 1);
    const int keep = __ldg(batch.keep + sample) != 0;
    const int place = __ldg(batch.sample_index + sample);
    const bool inside = are_bounds(begin, end, tokens);
    const int length = keep && inside ? end - begin : 0;
    sum[OUTSIDE] += !inside || place < 0 || place >= original;
    sum[SURVIVORS] += keep;
    sum[TOKENS] += length;
    sum[SURVIVORS_BEFORE] += sample < sample_begin ? keep : 0;
    sum[TOKENS_BEFORE] += sample < sample_begin ? length : 0;
    sum[ROW_SAMPLE] += end <= row_begin;
    sum[ROW_TOKENS] += end <= row_begin ? length : 0;
  }
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
#pragma unroll
  for (int i = 0; i < SUMS; ++i) {
    for (int offset = WARP_SIZE / 2; offset > 0; offset /= 2) sum[i] += __shfl_xor_sync(FULL_WARP, sum[i], offset);
    if (lane == 0) warp_sums[i][warp] = sum[i];
  }
  __syncthreads();
  if (threadIdx.x < SUMS) {
    int total = 0;
    for (int w = 0; w < WARPS; ++w) total += warp_sums[threadIdx.x][w];
    sums[threadIdx.x] = total;
  }
  __syncthreads();
}

// For a share of the samples: state of the survivors, results of the leaving, and the entries that no survivor fills.
__device__ __forceinline__ void write_samples(const PackedBatch& batch, const CompactedBatch& out,
                                              const Results& results, int sample_begin, int sample_end, const int* sums,
                                              int64_t* warp_totals) {
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  int64_t before = pack(sums[SURVIVORS_BEFORE], sums[TOKENS_BEFORE]);
  for (int window = sample_begin; window < sample_end; window += THREADS) {
    const int sample = window + threadIdx.x;
    const bool inside = sample < sample_end;
    const bool keep = inside && batch.keep[sample];
    const int length = keep ? batch.cu_seqlens[sample + 1] - batch.cu_seqlens[sample] : 0;
    const Scan scan = scan_block(pack(keep, length), warp_totals);
    if (inside) {
      const int index = batch.sample_index[sample];
      if (keep) {
        const int rank = survivors_of(before + scan.before);
        out.cu_seqlens[rank] = tokens_of(before + scan.before);
        out.sample_index[rank] = index;
        out.speed[rank] = batch.speed[sample];
        out.history[2 * static_cast<int64_t>(rank)] = batch.history[2 * static_cast<int64_t>(sample)];
        out.history[2 * static_cast<int64_t>(rank) + 1] = batch.history[2 * static_cast<int64_t>(sample) + 1];
      } else {
        results.uncertainty[index] = batch.uncertainty[sample];
        results.exit_layer[index] = batch.layer;
      }
      if (sample >= sums[SURVIVORS]) {
        out.cu_seqlens[sample] = sums[TOKENS];
        out.sample_index[sample] = 0;
        out.speed[sample] = 0;
        out.history[2 * static_cast<int64_t>(sample)] = 0;
        out.history[2 * static_cast<int64_t>(sample) + 1] = 0;
      }
    }
    before += scan.total;
    const int window_end = min(window + THREADS, sample_end);
    for (int s = window + warp; s < window_end; s += WARPS) {
      if (batch.keep[s]) continue;
      const float* source = batch.logits + s * batch.num_labels;
      float* target = results.logits + batch.sample_index[s] * batch.num_labels;
      for (int64_t label = lane; label < batch.num_labels; label += WARP_SIZE) target[label] = source[label];
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    out.cu_seqlens[batch.batch] = sums[TOKENS];
    out.counts[0] = sums[SURVIVORS];
    out.counts[1] = sums[TOKENS];
  }
}

// One warp copies one row.
template <typename Unit>
__device__ __forceinline__ void copy_row(Unit* target, const Unit* source, int64_t units, int lane) {
  for (int64_t base = lane; base < units; base += UNITS_IN_FLIGHT * WARP_SIZE) {
    Unit value[UNITS_IN_FLIGHT];
#pragma unroll
    for (int i = 0; i < UNITS_IN_FLIGHT; ++i) {
      if (base + i * WARP_SIZE < units) value[i] = source[base + i * WARP_SIZE];
    }
#pragma unroll
    for (int i = 0; i < UNITS_IN_FLIGHT; ++i) {
      if (base + i * WARP_SIZE < units) target[base + i * WARP_SIZE] = value[i];
    }
  }
}

// For a share of the rows: those of survivors to their new place. The share's samples are looked at in windows of one a
// thread: where each ends, and by how many rows it moves.
template <typename Unit>
__device__ __forceinline__ void copy_rows(const PackedBatch& batch, const CompactedBatch& out, int row_begin,
                                          int row_end, const int* sums, int64_t* warp_totals, int* sample_ends,
                                          int* shifts) {
  constexpr int leaving = 1;  // survivors move towards the front or stay, so no shift is positive
  const int samples = static_cast<int>(batch.batch);
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  const int64_t units = batch.row_bytes / static_cast<int64_t>(sizeof(Unit));
  int64_t tokens_before = sums[ROW_TOKENS];
  int window_begin = row_begin;
  for (int window = sums[ROW_SAMPLE]; window_begin < row_end; window += THREADS) {
    const int sample = min(window + static_cast<int>(threadIdx.x), samples - 1);
    const int begin = batch.cu_seqlens[sample];
    const int end = batch.cu_seqlens[sample + 1];
    const bool keep = window + static_cast<int>(threadIdx.x) < samples && batch.keep[sample];
    const Scan scan = scan_block(keep ? end - begin : 0, warp_totals);
    sample_ends[threadIdx.x] = end;
    shifts[threadIdx.x] = keep ? static_cast<int>(tokens_before + scan.before) - begin : leaving;
    __syncthreads();
    const int window_end = min(row_end, sample_ends[THREADS - 1]);
    int i = 0;
    for (int row = window_begin + warp; row < window_end; row += WARPS) {
      while (sample_ends[i] <= row) ++i;
      if (shifts[i] == leaving) continue;
      const Unit* source = static_cast<const Unit*>(batch.hidden) + row * units;
      copy_row(static_cast<Unit*>(out.hidden) + (row + shifts[i]) * units, source, units, lane);
    }
    window_begin = window_end;  // the scan's barriers come before the next window takes the place of this one
    tokens_before += scan.total;
  }
}

// Where the share of a block begins, in `total` samples or rows. In 32 bits, up to 2^31 - 1 + blocks: a division in 64
// takes about a hundred instructions, in front of everything else.
__device__ __forceinline__ int share_begin(int total, unsigned block) {
  const unsigned share = (static_cast<unsigned>(total) + gridDim.x - 1) / gridDim.x;
  return static_cast<int>(min(share * block, static_cast<unsigned>(total)));
}

template <typename Unit>
__global__ void __launch_bounds__(THREADS)
    compact_kernel(const PackedBatch batch, const CompactedBatch out, const Results results) {
  __shared__ int64_t warp_totals[WARPS];
  __shared__ int warp_sums[SUMS][WARPS];
  __shared__ int sums[SUMS];
  __shared__ int sample_ends[THREADS];
  __shared__ int shifts[THREADS];
  const int samples = static_cast<int>(batch.batch);
  const int rows = batch.cu_seqlens[samples];
  const int sample_begin = share_begin(samples, blockIdx.x);
  const int sample_end = share_begin(samples, blockIdx.x + 1);
  const int row_begin = share_begin(rows, blockIdx.x);
  const int row_end = share_begin(rows, blockIdx.x + 1);
  sum_batch(batch, results.samples, sample_begin, row_begin, sums, warp_sums);
  if (sums[OUTSIDE] > 0) {  // which every block finds
    if (blockIdx.x == 0 && threadIdx.x < 2) out.counts[threadIdx.x] = -1;
    return;
  }
  write_samples(batch, out, results, sample_begin, sample_end, sums, warp_totals);
  copy_rows<Unit>(batch, out, row_begin, row_end, sums, warp_totals, sample_ends, shifts);
}

template <typename Unit>
cudaError_t launch(unsigned blocks, const PackedBatch& batch, const CompactedBatch& out, const Results& results,
                   void* stream) {
  const auto kernel = compact_kernel<Unit>;
  FASTBERT_LAUNCH(kernel, blocks, THREADS, 0, stream, batch, out, results);
  return cudaGetLastError();
}

bool aligned(const PackedBatch& batch, const CompactedBatch& out, uintptr_t bytes) {
  const auto hidden = reinterpret_cast<uintptr_t>(batch.hidden) | reinterpret_cast<uintptr_t>(out.hidden);
  return ((hidden | static_cast<uintptr_t>(batch.row_bytes)) & (bytes - 1)) == 0;
}

}  // namespace

int compact(const PackedBatch& batch, const CompactedBatch& out, const Results& results, int device, void* stream) {
  if (batch.batch < 0 || batch.batch > INT32_MAX || batch.tokens < 0 || batch.tokens > INT32_MAX) {
    return cudaErrorInvalidValue;
  }
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  DeviceLimits limits = {};
  const cudaError_t status = device_limits(device, limits);
  if (status != cudaSuccess) return status;
  // From the capacities alone: enough blocks for a row a warp, and one in any case, for the counts of an empty batch.
  const int64_t useful = batch.tokens / WARPS + batch.batch / THREADS + 1;
  const int64_t most = static_cast<int64_t>(limits.multiprocessors) * BLOCKS_PER_MULTIPROCESSOR;
  const auto blocks = static_cast<unsigned>(useful < most ? useful : most);
  if (aligned(batch, out, 16)) return launch<uint4>(blocks, batch, out, results, stream);
  if (aligned(batch, out, 4)) return launch<uint32_t>(blocks, batch, out, results, stream);
  return launch<uint8_t>(blocks, batch, out, results, stream);
}

}  // namespace fastbert::cuda
