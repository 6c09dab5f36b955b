// Products of a few vectors with a matrix, by one block of 8 warps. The vectors, float32, lie in shared memory; the
// matrix comes from global memory, which in practice is the L2 cache, in accesses of 16 bytes, once for all vectors.
// With so few vectors the matrix units would not help: these products take the time that the matrix takes to arrive.
//
//   by rows      x matrix^T, matrix [rows, size]: a warp has a few rows at a time, its lanes share the sum
//   by columns   x matrix, matrix [rows, columns]: a thread has 16 bytes of columns of a share of the rows
#pragma once
#include "../activation.h"
#include "device.cuh"

namespace fastbert::cuda {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP_SIZE;

template <typename T>
constexpr int UNIT_SIZE = 16 / sizeof(T);  // elements of a 16-byte access, a unit

template <typename T>
__device__ __forceinline__ float2 unpack_pair(uint32_t pair);

template <>
__device__ __forceinline__ float2 unpack_pair<__nv_bfloat16>(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

template <>
__device__ __forceinline__ float2 unpack_pair<__half>(uint32_t pair) {
  const __half2_raw raw = {static_cast<uint16_t>(pair & 0xffffu), static_cast<uint16_t>(pair >> 16)};
  return __half22float2(__half2(raw));
}

template <typename T>
__device__ __forceinline__ void unpack(float (&value)[UNIT_SIZE<T>], const uint4& unit) {
  const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      value[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = unpack_pair<T>(words[i]);
      value[2 * i] = pair.x;
      value[2 * i + 1] = pair.y;
    }
  }
}

// The place of an element in a vector of `size` floats that meets units of T. For 16-bit types a unit meets 32 bytes of
// the vector; the first 16 bytes of all units come before the second, so that a warp reads no bank twice.
template <typename T>
__device__ __forceinline__ int split_index(int element, int size) {
  if constexpr (sizeof(T) == 4) return element;
  return element % 8 / 4 * (size / 2) + element / 8 * 4 + element % 4;
}

// The elements of such a vector that meet one unit of T.
template <typename T>
__device__ __forceinline__ void load_split(float (&value)[UNIT_SIZE<T>], const float* vector, int unit, int size) {
#pragma unroll
  for (int half = 0; half < UNIT_SIZE<T> / 4; ++half) {
    const float4 four = *reinterpret_cast<const float4*>(vector + half * (size / 2) + 4 * unit);
    value[4 * half] = four.x;
    value[4 * half + 1] = four.y;
    value[4 * half + 2] = four.z;
    value[4 * half + 3] = four.w;
  }
}

template <typename T>
__device__ __forceinline__ uint4 load_unit(const T* row, int unit) {
  return __ldg(reinterpret_cast<const uint4*>(row) + unit);
}

// write(vector, row, sum) once for each of `count` <= VECTORS vectors [size], split, and each row of `matrix`. The
// caller's barriers come before and after.
template <typename T, int VECTORS, int ROWS, typename Write>
__device__ __forceinline__ void multiply_rows(const T* matrix, int rows, int size, const float* vectors, int count,
                                              Write write) {
  const int lane = threadIdx.x % WARP_SIZE;
  const int warp = threadIdx.x / WARP_SIZE;
  const int units = size / UNIT_SIZE<T>;
  for (int base = warp * ROWS; base < rows; base += WARPS * ROWS) {
    float sum[ROWS][VECTORS] = {};
    const T* row[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) row[r] = matrix + static_cast<int64_t>(min(base + r, rows - 1)) * size;
#pragma unroll 2
    for (int unit = lane; unit < units; unit += WARP_SIZE) {
      float weight[ROWS][UNIT_SIZE<T>];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) unpack<T>(weight[r], load_unit(row[r], unit));
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        if (v >= count) break;
        float x[UNIT_SIZE<T>];
        load_split<T>(x, vectors + v * size, unit, size);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
          for (int e = 0; e < UNIT_SIZE<T>; ++e) sum[r][v] = fmaf(weight[r][e], x[e], sum[r][v]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        if (v >= count) break;
        const float total = warp_sum(sum[r][v]);
        if (lane == 0 && base + r < rows) write(v, base + r, total);
      }
    }
  }
}

// Floats of `partial` below, for `count` vectors.
template <typename T>
constexpr int partial_floats(int columns, int count) {
  return count * (columns > THREADS * UNIT_SIZE<T> ? columns : THREADS * UNIT_SIZE<T>);
}

// write(vector, column, sum) once for each of `count` <= VECTORS vectors [rows], `stride` apart, and each column of
// `matrix`. Ends with a barrier; the caller's comes before.
template <typename T, int VECTORS, typename Write>
__device__ __forceinline__ void multiply_columns(const T* matrix, int rows, int columns, const float* vectors,
                                                 int stride, int count, float* partial, Write write) {
  const int units = columns / UNIT_SIZE<T>;
  const int slices = units < THREADS ? THREADS / units : 1;
  for (int item = threadIdx.x; item < slices * units; item += THREADS) {
    const int unit = item % units;
    const int slice = item / units;
    float sum[VECTORS][UNIT_SIZE<T>] = {};
#pragma unroll 4
    for (int row = slice; row < rows; row += slices) {
      float weight[UNIT_SIZE<T>];
      unpack<T>(weight, load_unit(matrix + static_cast<int64_t>(row) * columns, unit));
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        if (v >= count) break;
        const float x = vectors[v * stride + row];
#pragma unroll
        for (int e = 0; e < UNIT_SIZE<T>; ++e) sum[v][e] = fmaf(x, weight[e], sum[v][e]);
      }
    }
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
      if (v >= count) break;
#pragma unroll
      for (int e = 0; e < UNIT_SIZE<T>; ++e) {
        partial[(slice * count + v) * columns + unit * UNIT_SIZE<T> + e] = sum[v][e];
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count * columns; i += THREADS) {
    float total = 0;
    for (int slice = 0; slice < slices; ++slice) total += partial[slice * count * columns + i];
    write(i / columns, i % columns, total);
  }
  __syncthreads();
}

__device__ __forceinline__ float activate(Activation activation, float value) {
  switch (activation) {
    case Activation::tanh:
      return tanhf(value);
    case Activation::relu:
      return value < 0 ? 0 : value;  // a NaN stays
    case Activation::gelu:
      return 0.5f * value * (1 + erff(value * 0.70710678f));
    default:
      return value;
  }
}

}  // namespace fastbert::cuda
