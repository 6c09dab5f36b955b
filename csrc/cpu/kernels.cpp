// Run-time choice of the instruction set.
#include "cpu/kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastbert::cpu {

namespace portable {
extern const Kernels kernels;
}
#ifdef FASTBERT_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
#endif

namespace {

const Kernels& choose() {
  const char* requested = std::getenv("FASTBERT_CPU_ISA");
  const std::string name = requested ? requested : "";
  const auto wanted = [&](const char* set) { return name.empty() || name == set; };
#ifdef FASTBERT_X86
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_avx512_bf16 =
      has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (has_avx512_bf16 && wanted("avx512_bf16")) return avx512_bf16::kernels;
  if (has_avx512 && wanted("avx512")) return avx512::kernels;
  if (has_avx2 && wanted("avx2")) return avx2::kernels;
#endif
  if (wanted("portable")) return portable::kernels;
  throw std::runtime_error("FASTBERT_CPU_ISA=" + name +
                           " is not one that this processor and this build have (portable, avx2, avx512, "
                           "avx512_bf16); unset it to let the widest be chosen");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fastbert::cpu
