// Run-time choice of the instruction set.
#include "cpu/kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/tiles.h"

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
#ifdef FASTBERT_WITH_AMX
namespace amx {
extern const Kernels kernels;
}
#endif

namespace {

const char* nothing_missing() { return nullptr; }

#ifdef FASTBERT_X86
const char* avx2_missing() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")
             ? nullptr
             : "this processor has no AVX2 with FMA and F16C";
}

const char* avx512_missing() {
  if (const char* missing = avx2_missing()) return missing;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
             ? nullptr
             : "this processor has no AVX-512";
}

const char* avx512_bf16_missing() {
  if (const char* missing = avx512_missing()) return missing;
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")
             ? nullptr
             : "this processor has no AVX-512 with bfloat16 and int8 products";
}
#endif

#ifdef FASTBERT_WITH_AMX
const char* amx_missing() {
#ifdef FASTBERT_X86
  if (const char* missing = avx512_bf16_missing()) return missing;
#endif
  return tiles_missing();
}
#endif

struct Candidate {
  const Kernels* kernels;
  const char* (*missing)();  // why this processor or system does not have the set, or nullptr
};

// The widest first.
constexpr Candidate kCandidates[] = {
#ifdef FASTBERT_WITH_AMX
    {&amx::kernels, amx_missing},
#endif
#ifdef FASTBERT_X86
    {&avx512_bf16::kernels, avx512_bf16_missing},
    {&avx512::kernels, avx512_missing},
    {&avx2::kernels, avx2_missing},
#endif
    {&portable::kernels, nothing_missing},
};

// With what the set finds by testing itself, which it does once.
const char* missing(const Candidate& candidate) {
  const char* reason = candidate.missing();
  return reason ? reason : candidate.kernels->fault();
}

const Kernels& choose() {
  const char* requested = std::getenv("FASTBERT_CPU_ISA");
  std::string names;
  for (const Candidate& candidate : kCandidates) {
    const std::string name = candidate.kernels->name;
    if (requested != nullptr && name != requested) {
      names += (names.empty() ? "" : ", ") + name;
      continue;
    }
    const char* reason = missing(candidate);
    if (reason == nullptr) return *candidate.kernels;
    if (requested != nullptr)
      throw std::runtime_error("FASTBERT_CPU_ISA=" + name + " is not available: " + reason +
                               "; unset it to let the widest that is be chosen");
  }
  throw std::runtime_error("FASTBERT_CPU_ISA=" + std::string(requested) + " is not one of " + names +
                           "; unset it to let the widest be chosen");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

std::vector<InstructionSet> instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> found;
    for (const Candidate& candidate : kCandidates) found.push_back({candidate.kernels->name, missing(candidate)});
    return found;
  }();
  return sets;
}

}  // namespace fastbert::cpu
