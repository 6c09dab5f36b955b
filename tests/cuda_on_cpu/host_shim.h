// CUDA's language on the CPU, for kernels compiled by g++: barriers, shuffles, asynchronous copies and matrix
// instructions do what the PTX manual says of them, on the fibers of fibers.h.
//
// Caught: wrong results, out-of-bounds and undefined behaviour (build with sanitizers), reads of shared memory that
// nothing wrote (it starts as NaNs), threads of a block at different barriers, lanes of a warp in different
// collectives, copies used before they were waited for, matrix loads with bank conflicts. The order in which warps run
// is shuffled by a seed, which turns many missing barriers into wrong results; it cannot prove that there is no race.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_types.h>

#include <cmath>

#include "fibers.h"

#undef __shared__
#undef __global__
#undef __launch_bounds__
#undef __forceinline__
#define __shared__ static
#define __global__
#define __launch_bounds__(...)
#define __forceinline__ inline

inline void __trap() { cuda_on_cpu::fail("__trap"); }

void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value);  // graph_api.cpp

namespace cuda_on_cpu {

inline void barrier(int line) {
  current->barrier_line = line;
  current->state = State::at_barrier;
  ++current->block->at_barrier;
  to_scheduler();
}

// Waits for all lanes of the warp; the last to come does the operation for all of them. Operands lie on the lanes'
// stacks.
inline void collective(unsigned mask, Collective operation, void* operands) {
  if (mask != 0xffffffffu) fail("a warp collective without the full mask");
  Thread* self = current;
  self->collective = operation;
  self->operands = operands;
  self->state = State::in_collective;
  unsigned& arrived = self->block->in_collective[self->rank / WARP];
  if (++arrived < WARP) return to_scheduler();
  arrived = 0;
  Thread* const* lanes = self->warp();
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (lanes[lane]->collective != operation) fail("lanes of a warp are in different collectives");
  }
  operation(lanes);
  for (unsigned lane = 0; lane < WARP; ++lane) lanes[lane]->state = State::ready;
}

template <typename T>
struct Shuffle {
  T value;
  unsigned source;
  T result;
};

template <typename T>
T shuffle(unsigned mask, T value, unsigned source) {
  Shuffle<T> own = {value, source % WARP, value};
  collective(
      mask,
      [](Thread* const* lanes) {
        for (unsigned lane = 0; lane < WARP; ++lane) {
          auto* to = static_cast<Shuffle<T>*>(lanes[lane]->operands);
          to->result = static_cast<Shuffle<T>*>(lanes[to->source]->operands)->value;
        }
      },
      &own);
  return own.result;
}

struct Reduction {
  int value;
  bool smallest;
};

// The sum over a warp, or the smallest value of it.
inline int reduce(unsigned mask, int value, bool smallest) {
  Reduction own = {value, smallest};
  collective(
      mask,
      [](Thread* const* lanes) {
        const auto* first = static_cast<Reduction*>(lanes[0]->operands);
        int result = first->value;
        for (unsigned lane = 1; lane < WARP; ++lane) {
          const auto* from = static_cast<Reduction*>(lanes[lane]->operands);
          if (from->smallest != first->smallest) fail("lanes of a warp are in different reductions");
          result = from->smallest ? std::min(result, from->value) : result + from->value;
        }
        for (unsigned lane = 0; lane < WARP; ++lane) static_cast<Reduction*>(lanes[lane]->operands)->value = result;
      },
      &own);
  return own.value;
}

struct MatrixLoad {
  uint32_t* fragment;
  const unsigned char* row;
};

inline void load_matrices(uint32_t (&fragment)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("a matrix row is not 16-byte aligned");
  MatrixLoad own = {fragment, static_cast<const unsigned char*>(row)};
  collective(
      0xffffffffu,
      [](Thread* const* lanes) {
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
          unsigned banks = 0;  // the 8 rows of a matrix are read at once, 16 bytes of 128 each
          for (unsigned row = 0; row < 8; ++row) {
            const auto* from = static_cast<MatrixLoad*>(lanes[8 * matrix + row]->operands);
            const unsigned bank = 1u << reinterpret_cast<uintptr_t>(from->row) / 16 % 8;
            machine.bank_conflicts += (banks & bank) != 0;
            banks |= bank;
          }
        }
        for (unsigned lane = 0; lane < WARP; ++lane) {
          for (unsigned matrix = 0; matrix < 4; ++matrix) {
            const auto* from = static_cast<MatrixLoad*>(lanes[8 * matrix + lane / 4]->operands);
            std::memcpy(static_cast<MatrixLoad*>(lanes[lane]->operands)->fragment + matrix, from->row + lane % 4 * 4,
                        4);
          }
        }
      },
      &own);
}

template <typename T>
float decode(uint16_t bits);

template <>
inline float decode<__nv_bfloat16>(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <>
inline float decode<__half>(uint16_t bits) {
  static const std::vector<float> table = [] {
    std::vector<float> values(65536);
    for (unsigned i = 0; i < values.size(); ++i) values[i] = __half2float(__ushort_as_half(static_cast<uint16_t>(i)));
    return values;
  }();
  return table[bits];
}

struct MatrixProduct {
  float* sum;
  const uint32_t* a;
  uint32_t b[2];
};

template <typename T>
void multiply_16x8x16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high) {
  MatrixProduct own = {sum, a, {b_low, b_high}};
  collective(
      0xffffffffu,
      [](Thread* const* lanes) {
        ++machine.matrix_products;
        float a[16][16], b[16][8], sum[16][8];
        for (unsigned lane = 0; lane < WARP; ++lane) {
          const auto* from = static_cast<MatrixProduct*>(lanes[lane]->operands);
          const unsigned group = lane / 4, pair = lane % 4 * 2;
          for (unsigned e = 0; e < 2; ++e) {
            for (unsigned r = 0; r < 4; ++r) {
              a[group + 8 * (r % 2)][pair + 8 * (r / 2) + e] = decode<T>(static_cast<uint16_t>(from->a[r] >> 16 * e));
            }
            for (unsigned r = 0; r < 2; ++r)
              b[pair + 8 * r + e][group] = decode<T>(static_cast<uint16_t>(from->b[r] >> 16 * e));
            for (unsigned r = 0; r < 2; ++r) sum[group + 8 * r][pair + e] = from->sum[2 * r + e];
          }
        }
        for (unsigned row = 0; row < 16; ++row) {
          for (unsigned k = 0; k < 16; ++k) {
            for (unsigned column = 0; column < 8; ++column) sum[row][column] += a[row][k] * b[k][column];
          }
        }
        for (unsigned lane = 0; lane < WARP; ++lane) {
          auto* to = static_cast<MatrixProduct*>(lanes[lane]->operands);
          for (unsigned e = 0; e < 4; ++e) to->sum[e] = sum[lane / 4 + 8 * (e / 2)][lane % 4 * 2 + e % 2];
        }
      },
      &own);
}

// A copy may run at any time until it is waited for. With an even seed it runs at the last moment, which shows a
// missing wait; with an odd seed at once, which shows a target that somebody still reads.
inline void copy_async(void* target, const void* source, unsigned source_bytes, unsigned bytes) {
  if ((reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source)) % bytes != 0)
    fail("a copy is not aligned");
  const AsyncCopy copy = {target, source, source_bytes, bytes};
  if (machine.order_seed % 2 == 1) {
    copy.run();
  } else {
    current->open_copies.push_back(copy);
  }
}

inline void commit_copies() {
  current->copy_groups.push_back(std::move(current->open_copies));
  current->open_copies.clear();
}

inline void wait_for_copies(unsigned pending) {
  auto& groups = current->copy_groups;
  for (; groups.size() > pending; groups.pop_front()) {
    for (const AsyncCopy& copy : groups.front()) copy.run();
  }
}

inline float keep_11_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isfinite(value)) bits &= ~0xfffu;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::current->index)
#define blockIdx (::cuda_on_cpu::current->block->index)
#define blockDim (::cuda_on_cpu::current->block->size)
#define gridDim (::cuda_on_cpu::current->block->grid)
#define __syncthreads() ::cuda_on_cpu::barrier(__LINE__)

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::current->lane() ^ lane_mask);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const unsigned lane = cuda_on_cpu::current->lane();
  return cuda_on_cpu::shuffle(mask, value, lane < delta ? lane : lane - delta);
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::collective(mask, [](cuda_on_cpu::Thread* const*) {}, nullptr);
}
inline int __reduce_add_sync(unsigned mask, int value) { return cuda_on_cpu::reduce(mask, value, false); }

inline int __reduce_min_sync(unsigned mask, int value) { return cuda_on_cpu::reduce(mask, value, true); }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

using std::max;
using std::min;

#define FASTBERT_DYNAMIC_SHARED(name) unsigned char* name = ::cuda_on_cpu::current->block->shared
#define FASTBERT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream), ::cuda_on_cpu::launch((grid), (block), (shared_bytes), [=] { kernel(__VA_ARGS__); }))
