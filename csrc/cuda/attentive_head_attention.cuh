// The attention of the attentive head over one tile of Z, which lies in the registers of the block's warps.
#pragma once
#include "attentive_head_shared.cuh"

namespace fastbert::cuda {

// score[warp_across, head, token] = u_i . Z_j over the columns of a warp.
template <int C>
__device__ __forceinline__ void compute_scores(const Scratch<C>& scratch, const Accumulators<C>& zed, int num_heads,
                                               int warp_token, int warp_across, int lane) {
  for (int head = 0; head < num_heads; ++head) {
    const float* query = scratch.query + head * C + warp_across * Layout<C>::warp_columns + lane % 4 * 2;
    float score[4] = {};
#pragma unroll
    for (int n = 0; n < Layout<C>::column_tiles; ++n) {
      const float2 u = *reinterpret_cast<const float2*>(query + 8 * n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[i] = fmaf(zed[i / 2][n][i % 2 * 2], u.x, score[i]);
        score[i] = fmaf(zed[i / 2][n][i % 2 * 2 + 1], u.y, score[i]);
      }
    }
    float* target = scratch.score + (warp_across * num_heads + head) * Layout<C>::tokens + warp_token + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      score[i] += __shfl_xor_sync(FULL_WARP, score[i], 1);
      score[i] += __shfl_xor_sync(FULL_WARP, score[i], 2);
      if (lane % 4 == 0) target[8 * i] = score[i];
    }
  }
}

// One warp: scores of a head -> unnormalised probabilities against the maximum so far; tokens past `count` get 0.
template <int C>
__device__ __forceinline__ void update_softmax(const Scratch<C>& scratch, int num_heads, int head, int count,
                                               int lane) {
  constexpr int per_lane = Layout<C>::tokens / WARP_SIZE;
  float* score = scratch.score + head * Layout<C>::tokens;
  float value[per_lane];
  float tile_maximum = -INFINITY;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const int token = i * WARP_SIZE + lane;
    value[i] = -INFINITY;
    if (token < count) {
      value[i] = score[token];
      for (int across = 1; across < Layout<C>::warps_across; ++across) {
        value[i] += score[across * num_heads * Layout<C>::tokens + token];
      }
    }
    tile_maximum = fmaxf(tile_maximum, value[i]);
  }
  const float maximum = scratch.maximum[head];
  const float new_maximum = fmaxf(maximum, warp_max(tile_maximum));
  const float rescale = expf(maximum - new_maximum);
  float tile_total = 0;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const float probability = expf(value[i] - new_maximum);
    score[i * WARP_SIZE + lane] = probability;
    tile_total += probability;
  }
  tile_total = warp_sum(tile_total);
  __syncwarp();  // every lane has read the maximum before the first lane changes it; a shuffle orders no memory
  if (lane == 0) {
    scratch.rescale[head] = rescale;
    scratch.total[head] = fmaf(scratch.total[head], rescale, tile_total);
    scratch.maximum[head] = new_maximum;
  }
}

// One step of a sum over lanes: of its 2 `half` sums a lane hands one half to the lane across `distance` and adds that
// lane's share to the other. Returns where the half it kept begins.
template <int half, int columns>
__device__ __forceinline__ int exchange_half(float (&sum)[columns], int lane, int distance) {
  const bool upper = lane & distance;
#pragma unroll
  for (int c = 0; c < half; ++c) {
    const float given = upper ? sum[c] : sum[c + half];
    const float kept = upper ? sum[c + half] : sum[c];
    sum[c] = kept + __shfl_xor_sync(FULL_WARP, given, distance);
  }
  return upper ? half : 0;
}

// context[warp_down, head, :] = context * rescale + sum of p_j Z_j over the tokens of a warp.
template <int C>
__device__ __forceinline__ void update_contexts(const Scratch<C>& scratch, const Accumulators<C>& zed, int num_heads,
                                                bool first_tile, int warp_down, int warp_across, int lane) {
  constexpr int columns = Layout<C>::columns;
  for (int head = 0; head < num_heads; ++head) {
    const float* probability = scratch.score + head * Layout<C>::tokens + warp_down * 32 + lane / 4;
    float sum[columns] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float p = probability[8 * i];
#pragma unroll
      for (int c = 0; c < columns; ++c) sum[c] = fmaf(p, zed[i / 2][c / 2][i % 2 * 2 + c % 2], sum[c]);
    }
    // Sum over the 8 lanes that share columns: each ends with the full sums of `columns` / 8 of them, from `owned` on.
    int owned = exchange_half<columns / 2>(sum, lane, 16);
    owned += exchange_half<columns / 4>(sum, lane, 8);
    owned += exchange_half<columns / 8>(sum, lane, 4);
    float* context = scratch.context + (warp_down * num_heads + head) * C + warp_across * Layout<C>::warp_columns;
#pragma unroll
    for (int c = 0; c < columns / 8; ++c) {
      float* target = context + (owned + c) / 2 * 8 + lane % 4 * 2 + (owned + c) % 2;
      *target = first_tile ? sum[c] : fmaf(*target, scratch.rescale[head], sum[c]);
    }
  }
}

}  // namespace fastbert::cuda
