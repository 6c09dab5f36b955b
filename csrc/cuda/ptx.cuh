// Every PTX instruction the kernels use, one wrapper each. The host bodies compute what the PTX manual documents, lane
// by lane, so that the kernels' data layouts are tested on the CPU and not only on a GPU.
#pragma once
#include "device.cuh"

namespace fastbert::cuda {

// Start the copy of 16 bytes to shared memory, past the L1 cache. With `valid` false nothing is read and the 16 bytes
// become zero; `source` must be a legal address all the same.
__device__ __forceinline__ void copy_16_bytes_async(void* shared_target, const void* source, bool valid) {
#ifdef FASTBERT_HOST_SHIM
  cuda_on_cpu::copy_async(shared_target, source, valid ? 16 : 0, 16);
#else
  const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(shared_target));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
#endif
}

// Close a group of copies. Groups complete in order; an empty group is complete at once.
__device__ __forceinline__ void commit_copies() {
#ifdef FASTBERT_HOST_SHIM
  cuda_on_cpu::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until at most `pending` of this thread's groups are still under way.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
#ifdef FASTBERT_HOST_SHIM
  cuda_on_cpu::wait_for_copies(pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// The same for a number up to 4 that is known at run time.
__device__ __forceinline__ void wait_for_all_but(int pending) {
  switch (pending) {
    case 0:
      return wait_for_copies<0>();
    case 1:
      return wait_for_copies<1>();
    case 2:
      return wait_for_copies<2>();
    case 3:
      return wait_for_copies<3>();
    default:
      return wait_for_copies<4>();
  }
}

// Load four 8x8 matrices of 16-bit elements. Lanes 8 m .. 8 m + 7 give the addresses of the 16-byte rows of matrix m;
// lane l receives in fragment[m] the elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* shared_row) {
#ifdef FASTBERT_HOST_SHIM
  cuda_on_cpu::load_matrices(fragment, shared_row);
#else
  const auto row = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(row)
               : "memory");
#endif
}

// sum[16, 8] += a[16, 16] b[16, 8] with float32 accumulation; `a` in rows, `b` in columns. With g = lane / 4 and t =
// lane % 4, sum[e] is at row g + 8 (e / 2), column 2 t + e % 2; a[r] at row g + 8 (r % 2), columns 2 t + 8 (r / 2) and
// the next; b_low and b_high at column g, rows 2 t and 2 t + 8 and the next.
template <typename T>
__device__ __forceinline__ void multiply_16x8x16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low,
                                                 uint32_t b_high);

#ifdef FASTBERT_HOST_SHIM
template <typename T>
__device__ __forceinline__ void multiply_16x8x16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low,
                                                 uint32_t b_high) {
  cuda_on_cpu::multiply_16x8x16<T>(sum, a, b_low, b_high);
}
#else
#define FASTBERT_MULTIPLY_16X8X16(TYPE, NAME)                                                                     \
  template <>                                                                                                     \
  __device__ __forceinline__ void multiply_16x8x16<TYPE>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low, \
                                                         uint32_t b_high) {                                       \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                           \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                           \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));                          \
  }
FASTBERT_MULTIPLY_16X8X16(__nv_bfloat16, "bf16")
FASTBERT_MULTIPLY_16X8X16(__half, "f16")
#undef FASTBERT_MULTIPLY_16X8X16
#endif

// tanh in one instruction of the special function unit, relative error up to 2^-11: a quarter of what it costs to store
// the result in bfloat16, but as much as in float16. The host body has an error of the same size.
__device__ __forceinline__ float tanh_approximated(float value) {
#ifdef FASTBERT_HOST_SHIM
  return cuda_on_cpu::keep_11_bits(std::tanh(value));
#else
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
#endif
}

}  // namespace fastbert::cuda
