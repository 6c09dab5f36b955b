// What this machine's tile registers (AMX) reach where nothing stands in their way, with operands that stay in them. With
// FASTBERT_TILE_MODEL they are those of tests/tile_model.
#include <cstdint>

#include "cpu/tiles.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))
#if defined(FASTBERT_TILE_MODEL)
#include "tile_model.h"
#define TILES
#elif __has_include(<amxtileintrin.h>)
#include <immintrin.h>
#define TILES __attribute__((target("amx-tile,amx-bf16,amx-int8")))
#endif

// nullptr, or why this thread cannot multiply in tiles.
EXPORTED const char* tiles_refused() {
  using namespace fastbert::cpu;
  if (const char* reason = tiles_missing()) return reason;
  return thread_has_tiles() ? nullptr : "the system refuses tiles to this thread";
}

#ifdef TILES  // else the compiler knows none
namespace {

struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct alignas(64) Block {
  uint8_t bytes[16][64];
};

// Four tiles of sums at 0, and four operands whose every byte is `operand`.
TILES void fill_tiles(uint8_t operand) {
  const Configuration configuration;
  _tile_loadconfig(&configuration);
  Block block;
  for (auto& row : block.bytes)
    for (uint8_t& byte : row) byte = operand;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, &block, 64);
  _tile_loadd(5, &block, 64);
  _tile_loadd(6, &block, 64);
  _tile_loadd(7, &block, 64);
}

}  // namespace

// Four products a step, of 16 rows of 64 bytes and 64 bytes of 16 columns. The first number of the sums is returned.
#define TILE_PROBE(name, Number, product)                      \
  EXPORTED TILES Number name(int64_t steps, uint8_t operand) { \
    fill_tiles(operand);                                       \
    for (int64_t step = 0; step < steps; ++step) {             \
      product(0, 4, 6);                                        \
      product(1, 4, 7);                                        \
      product(2, 5, 6);                                        \
      product(3, 5, 7);                                        \
    }                                                          \
    alignas(64) Number sums[16][16];                           \
    _tile_stored(0, sums, 64);                                 \
    _tile_release();                                           \
    return sums[0][0];                                         \
  }
TILE_PROBE(tiles_bfloat16, float, _tile_dpbf16ps)
TILE_PROBE(tiles_int8, int32_t, _tile_dpbusd)
#endif
