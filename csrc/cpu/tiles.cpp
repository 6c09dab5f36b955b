#include "cpu/tiles.h"

namespace fastbert::cpu {

const char* tiles_missing() {
  static const char* const missing = !tile_system::processor_has_tiles() ? "this processor has no AMX"
                                     : !tile_system::request_permission()
                                         ? "the system does not permit the use of AMX tiles (arch_prctl)"
                                         : nullptr;
  return missing;
}

bool thread_has_tiles() {
  thread_local const bool has_tiles = tiles_missing() == nullptr && tile_system::has_permission();
  return has_tiles;
}

}  // namespace fastbert::cpu
