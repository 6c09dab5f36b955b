// Run-time choice of the instruction set.
#include "cpu/vector_kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastbert::cpu {

namespace portable {
extern const VectorKernels kernels;
}
#ifdef FASTBERT_X86
namespace avx2 {
extern const VectorKernels kernels;
}
namespace avx512 {
extern const VectorKernels kernels;
}
#endif

namespace {

const VectorKernels& choose() {
  const char* requested = std::getenv("FASTBERT_CPU_ISA");
  const std::string name = requested ? requested : "";
#ifdef FASTBERT_X86
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && (name.empty() || name == "avx512")) return avx512::kernels;
  if (has_avx2 && (name.empty() || name == "avx2")) return avx2::kernels;
#endif
  if (name.empty() || name == "portable") return portable::kernels;
  throw std::runtime_error("FASTBERT_CPU_ISA=" + name +
                           " is not one that this processor and this build have "
                           "(portable, avx2, avx512); unset it to let the widest be chosen");
}

}  // namespace

const VectorKernels& vector_kernels() {
  static const VectorKernels& chosen = choose();
  return chosen;
}

}  // namespace fastbert::cpu
