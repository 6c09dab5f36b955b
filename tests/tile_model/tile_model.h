// The tile registers of AMX in plain C++: what csrc/cpu/isa/tile_operand.h asks of a processor, for processors that have none.
// A use that the processor answers with a fault ends the program with a message, and so does one that it would bear but no
// kernel means: shapes that do not fit, or the same tile as operand and sum. The environment variable
// FASTBERT_TILE_MODEL_FAULT plants a fault of the processor: "kept", "int8", "bfloat16" or "order", as the code below has it.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "cpu/tiles.h"

namespace tile_model {

struct Tile {
  int rows, row_bytes;
  unsigned char memory[16][64];
};

struct State {
  bool configured;
  Tile tiles[8];
};

inline bool has_fault(const char* fault) {
  static const char* const given = std::getenv("FASTBERT_TILE_MODEL_FAULT");
  return given != nullptr && std::strcmp(given, fault) == 0;
}

inline std::atomic<int64_t> products = 0;  // since somebody asked

inline State& state() {
  thread_local State of_thread = {};
  return of_thread;
}

[[noreturn]] inline void fail(const char* what, int tile = -1) {
  std::fprintf(stderr, "tile model: %s (tile %d)\n", what, tile);
  std::abort();
}

inline Tile& tile(int index) {
  if (!state().configured) fail("used before it is configured", index);
  if (index < 0 || index > 7) fail("there are eight", index);
  Tile& found = state().tiles[index];
  if (found.rows == 0 || found.row_bytes == 0) fail("not configured for any row", index);
  return found;
}

template <class T>
T get(const Tile& from, int row, int column) {
  T value;
  std::memcpy(&value, from.memory[row] + column * sizeof(T), sizeof value);
  return value;
}

template <class T>
void set(Tile& to, int row, int column, T value) {
  std::memcpy(to.memory[row] + column * sizeof(T), &value, sizeof value);
}

// What is left of a row past its end, and of a tile past its rows, is zeroed by every instruction that writes to it.
inline void zero(Tile& to) { std::memset(to.memory, 0, sizeof to.memory); }

inline void check_product(int sums, int a, int b) {
  ++products;
  if (sums == a || sums == b || a == b) fail("the three tiles of a product must differ", sums);
  if (tile(sums).rows != tile(a).rows) fail("sums and first operand differ in rows", sums);
  if (tile(sums).row_bytes != tile(b).row_bytes) fail("sums and second operand differ in columns", sums);
  if (tile(a).row_bytes != 4 * tile(b).rows) fail("the operands differ in depth", a);
}

inline float from_bfloat16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

inline float flushed(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}

}  // namespace tile_model

// The header of the vectors of AVX-512, where these are compiled, has the real ones under the same names.
#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig tile_model_loadconfig
#define _tile_release tile_model_release
#define _tile_zero tile_model_zero
#define _tile_loadd tile_model_loadd
#define _tile_stored tile_model_stored
#define _tile_dpbf16ps tile_model_dpbf16ps
#define _tile_dpbusd tile_model_dpbusd

inline void _tile_loadconfig(const void* configuration) {
  if (!fastbert::cpu::thread_has_tiles()) tile_model::fail("the system does not permit their use in this thread");
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } given;
  std::memcpy(&given, configuration, sizeof given);
  if (given.palette != 1 || given.start_row != 0) tile_model::fail("palette 1 from row 0 is expected");
  for (int i = 0; i < 14; ++i)
    if (given.reserved[i] != 0) tile_model::fail("reserved bytes are not zero");
  for (int i = 0; i < 16; ++i) {
    if (i >= 8 && (given.rows[i] != 0 || given.row_bytes[i] != 0)) tile_model::fail("there are eight", i);
    if (given.rows[i] > 16 || given.row_bytes[i] > 64) tile_model::fail("at most 16 rows of 64 bytes", i);
    if ((given.rows[i] == 0) != (given.row_bytes[i] == 0)) tile_model::fail("rows without columns", i);
  }
  tile_model::state() = {};
  tile_model::state().configured = true;
  for (int i = 0; i < 8; ++i) {
    tile_model::state().tiles[i].rows = given.rows[i];
    tile_model::state().tiles[i].row_bytes = given.row_bytes[i];
  }
}

inline void _tile_release() { tile_model::state() = {}; }

inline void _tile_zero(int index) { tile_model::zero(tile_model::tile(index)); }

inline void _tile_loadd(int index, const void* memory, long stride) {
  tile_model::Tile& to = tile_model::tile(index);
  tile_model::zero(to);
  for (int row = 0; row < to.rows; ++row)
    std::memcpy(to.memory[row], static_cast<const char*>(memory) + row * stride, static_cast<size_t>(to.row_bytes));
}

inline void _tile_stored(int index, void* memory, long stride) {
  tile_model::Tile& from = tile_model::tile(index);
  if (tile_model::has_fault("kept")) from.memory[0][0] ^= 1;
  for (int row = 0; row < from.rows; ++row)
    std::memcpy(static_cast<char*>(memory) + row * stride, from.memory[row], static_cast<size_t>(from.row_bytes));
}

// Products at even and at odd places are added up by themselves, one after another; the two sums together go to what was
// there. Every operation rounds to the nearest, with numbers below the smallest normal one taken for 0 and turned to 0.
inline void _tile_dpbf16ps(int sums, int a, int b) {
  using tile_model::flushed, tile_model::from_bfloat16, tile_model::get;
  tile_model::check_product(sums, a, b);
  tile_model::Tile &to = tile_model::tile(sums), &left = tile_model::tile(a), &right = tile_model::tile(b);
  for (int row = 0; row < to.rows; ++row) {
    for (int column = 0; column < to.row_bytes / 4; ++column) {
      const float before = flushed(get<float>(to, row, column));
      if (tile_model::has_fault("order")) {
        float sum = before;
        for (int k = 0; k < 2 * right.rows; ++k)
          sum = std::fma(from_bfloat16(get<uint16_t>(left, row, k)),
                         from_bfloat16(get<uint16_t>(right, k / 2, 2 * column + k % 2)), sum);
        tile_model::set(to, row, column, sum);
        continue;
      }
      float places[2] = {tile_model::has_fault("bfloat16") ? 1.0f : 0.0f, 0.0f};
      for (int k = 0; k < right.rows; ++k)
        for (int place = 0; place < 2; ++place) {
          const float x = flushed(from_bfloat16(get<uint16_t>(left, row, 2 * k + place)));
          const float y = flushed(from_bfloat16(get<uint16_t>(right, k, 2 * column + place)));
          places[place] = flushed(std::fma(x, y, places[place]));
        }
      const float added = flushed(places[0] + places[1]);
      tile_model::set(to, row, column, flushed(before + added));
    }
  }
}

// Unsigned times signed, without saturation.
inline void _tile_dpbusd(int sums, int a, int b) {
  using tile_model::get;
  tile_model::check_product(sums, a, b);
  tile_model::Tile &to = tile_model::tile(sums), &left = tile_model::tile(a), &right = tile_model::tile(b);
  for (int row = 0; row < to.rows; ++row)
    for (int column = 0; column < to.row_bytes / 4; ++column) {
      uint32_t sum = get<uint32_t>(to, row, column) + (tile_model::has_fault("int8") ? 1 : 0);
      for (int k = 0; k < right.rows; ++k)
        for (int i = 0; i < 4; ++i)
          sum += static_cast<uint32_t>(get<uint8_t>(left, row, 4 * k + i) * get<int8_t>(right, k, 4 * column + i));
      tile_model::set(to, row, column, sum);
    }
}
