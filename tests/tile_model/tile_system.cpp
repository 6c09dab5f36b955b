// A system that gives the permission to use tiles as the environment variable FASTBERT_TILE_MODEL_SYSTEM says:
//
//   (not set)  to all            process  to nobody            threads  to the process, but to its first thread only
//
// and what the tests want to know and do beside it.
#include <unistd.h>

#include <sys/syscall.h>

#include <cstdlib>
#include <string>

#include "cpu/tiles.h"
#include "tile_model.h"

namespace fastbert::cpu::tile_system {
namespace {

const std::string& refused() {
  static const std::string read = [] {
    const char* given = std::getenv("FASTBERT_TILE_MODEL_SYSTEM");
    return std::string(given ? given : "");
  }();
  return read;
}

}  // namespace

bool processor_has_tiles() { return true; }
bool request_permission() { return refused() != "process"; }
bool has_permission() { return refused() != "threads" || syscall(SYS_gettid) == getpid(); }

}  // namespace fastbert::cpu::tile_system

// Products of tiles since the last call, of all threads.
extern "C" __attribute__((visibility("default"))) int64_t tile_products() { return tile_model::products.exchange(0); }
