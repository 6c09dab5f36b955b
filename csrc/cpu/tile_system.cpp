// Linux on x86-64: the processor says that it has tiles and that the system saves some of their state; the right to use them
// is given to a process that asks for it, and to threads with it.
#include "cpu/tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace fastbert::cpu::tile_system {
namespace {

constexpr long kGetPermission = 0x1022, kRequestPermission = 0x1023;  // ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM
constexpr int kTileConfiguration = 17, kTileData = 18;                // components of the extended state

uint64_t saved_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace

bool processor_has_tiles() {
  unsigned a, b, c, d;
  constexpr unsigned kSystemSavesState = 1u << 27;  // OSXSAVE: xgetbv may be asked
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSystemSavesState)) return false;
  constexpr uint64_t kTiles = uint64_t{1} << kTileConfiguration | uint64_t{1} << kTileData;
  if ((saved_state() & kTiles) != kTiles) return false;
  constexpr unsigned kNeeded = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kNeeded) == kNeeded;
}

bool request_permission() { return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0; }

bool has_permission() {
  uint64_t permitted = 0;
  return syscall(SYS_arch_prctl, kGetPermission, &permitted) == 0 && (permitted >> kTileData & 1) != 0;
}

}  // namespace fastbert::cpu::tile_system
#else
namespace fastbert::cpu::tile_system {
bool processor_has_tiles() { return false; }
bool request_permission() { return false; }
bool has_permission() { return false; }
}  // namespace fastbert::cpu::tile_system
#endif
