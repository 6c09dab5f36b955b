// Whether tiles are fit for use, and from how many rows on they are faster than vectors.
#include "cpu/isa/tile_choice.h"

#include "cpu/isa/functions.h"
#include "cpu/isa/operand.h"

#if defined(FASTBERT_TILES)
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "cpu/memory.h"

namespace fastbert::cpu::FASTBERT_ISA {
namespace {

// Set by a self-test that found bfloat16 tiles to be right, but rounded in another order than vectors: which of them
// multiplies a row must then not depend on the number of rows.
bool tiles_only = false;

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Small numbers that do not repeat soon, from a fixed start.
class Numbers {
 public:
  int next() {  // -100 to 100
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<int>(state_ >> 16) % 201 - 100;
  }

 private:
  uint32_t state_ = 1;
};

// Cubes, whose products are of many magnitudes: their float32 sums are rounded, so that the order of additions shows.
inline void set(uint16_t& to, int number) {
  const float value = static_cast<float>(number) / 100.0f;
  to = to_bfloat16(value * value * value);
}
inline void set(uint8_t& to, int number) { to = static_cast<uint8_t>(number + 128); }
inline void set(int8_t& to, int number) { to = static_cast<int8_t>(number); }

// Rows and a panel of numbers, and room for their product.
template <class Operand>
struct Trial {
  Trial(int64_t most_rows, int64_t longest)
      : depth(longest),
        rows(take<typename Operand::Row>(most_rows * longest)),
        panel(take<typename Operand::Weight>(kPanelWidth * longest)),
        sums(take<typename Operand::Sum>(most_rows * kPanelWidth)) {
    Numbers numbers;
    for (int64_t i = 0; i < most_rows * longest; ++i) set(rows[i], numbers.next());
    for (int64_t i = 0; i < kPanelWidth * longest; ++i) set(panel[i], numbers.next());
  }
  ~Trial() {
    give_back_memory(rows);
    give_back_memory(panel);
    give_back_memory(sums);
  }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  template <class T>
  static T* take(int64_t count) {
    return static_cast<T*>(take_memory(count * sizeof(T)));
  }

  const int64_t depth;
  typename Operand::Row* rows;
  typename Operand::Weight* panel;
  typename Operand::Sum* sums;
};

// The least time of some runs: the others were disturbed.
template <class Run>
double least_seconds(const Run& run) {
  double least = 1.0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double begin = seconds();
    run();
    const double taken = seconds() - begin;
    least = taken < least ? taken : least;
  }
  return least;
}

constexpr int64_t kDepths[] = {64, 256, 1024};
constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 6, 8, 12, 16};

struct FewestRows {
  int64_t at[3];  // kDepths
};

template <class Tiles>
int64_t measure(int64_t depth) {
  using Operand = TileOperand<Tiles>;
  const Trial<Operand> trial(kRowsOfTile, depth);
  Operand operand;
  for (int64_t count : kRowCounts) {
    const double tiles = least_seconds(
        [&] { operand.run_tiles(count, trial.rows, depth, trial.panel, depth, trial.sums, kPanelWidth); });
    const double vectors = least_seconds(
        [&] { operand.run_vectors(count, trial.rows, depth, trial.panel, depth, trial.sums, kPanelWidth); });
    if (tiles < vectors) return count;
  }
  return kRowsOfTile + 1;
}

template <class Tiles>
FewestRows measure_all() {
  if (tiles_only && !Tiles::kExact) return {1, 1, 1};
  if (const char* given = getenv("FASTBERT_TILE_ROWS")) {
    const int64_t rows = atol(given);
    return {rows, rows, rows};
  }
  return {measure<Tiles>(kDepths[0]), measure<Tiles>(kDepths[1]), measure<Tiles>(kDepths[2])};
}

template <class Tiles>
int64_t fewest_for(int64_t depth) {
  static const FewestRows fewest = measure_all<Tiles>();
  int i = 0;
  while (i < 2 && depth > 2 * kDepths[i]) ++i;
  return fewest.at[i];
}

// The number of a tile is part of the instruction, so that no loop can count it.
#define FASTBERT_EVERY_TILE(visit) visit(0) visit(1) visit(2) visit(3) visit(4) visit(5) visit(6) visit(7)

// Whether tiles keep what is in them while the thread waits: some virtual machines were said to lose it.
bool tiles_are_kept() {
  alignas(64) uint8_t before[8][kRowsOfTile * kBytesOfTile], after[8][kRowsOfTile * kBytesOfTile];
  for (int tile = 0; tile < 8; ++tile)
    for (int64_t i = 0; i < kRowsOfTile * kBytesOfTile; ++i) before[tile][i] = static_cast<uint8_t>(17 * i + 31 * tile);
  _tile_loadconfig(&kTileConfigurations.of_rows[2 * kRowsOfTile]);
  __asm__ volatile("" ::: "memory");
#define FASTBERT_LOAD(tile) _tile_loadd(tile, before[tile], kBytesOfTile);
  FASTBERT_EVERY_TILE(FASTBERT_LOAD)
  for (int i = 0; i < 64; ++i) sched_yield();
  const timespec moment = {0, 1000000};
  nanosleep(&moment, nullptr);
#define FASTBERT_STORE(tile) _tile_stored(tile, after[tile], kBytesOfTile);
  FASTBERT_EVERY_TILE(FASTBERT_STORE)
  _tile_release();
  return std::memcmp(before, after, sizeof before) == 0;
}

struct Agreement {
  bool same_bits, close;
};

// Of tiles and vectors, about a product with two tiles of rows and a depth that ends in half a step.
template <class Tiles>
Agreement compare() {
  using Operand = TileOperand<Tiles>;
  constexpr int64_t kRows = 27, kDepth = 5 * Operand::kStep / 2;
  const Trial<Operand> tiles(kRows, kDepth), vectors(kRows, kDepth);
  Operand operand;
  operand.run_tiles(kRows, tiles.rows, kDepth, tiles.panel, kDepth, tiles.sums, kPanelWidth);
  operand.run_vectors(kRows, vectors.rows, kDepth, vectors.panel, kDepth, vectors.sums, kPanelWidth);
  Agreement agreement = {true, true};
  for (int64_t i = 0; i < kRows * kPanelWidth; ++i) {
    const float difference = static_cast<float>(tiles.sums[i]) - static_cast<float>(vectors.sums[i]);
    agreement.same_bits &= tiles.sums[i] == vectors.sums[i];
    agreement.close &= -1e-3f < difference && difference < 1e-3f;  // bfloat16 sums are 80 at most
  }
  return agreement;
}

const char* test() {
  if (!thread_has_tiles()) return "the system does not permit the use of tiles in this thread";
  if (!tiles_are_kept()) return "tiles lose what is in them while a thread waits";
  if (!compare<Int8Tiles>().same_bits) return "int8 products of tiles are wrong";
  const Agreement bfloat16 = compare<Bfloat16Tiles>();
  if (!bfloat16.close) return "bfloat16 products of tiles are wrong";
  tiles_only = !bfloat16.same_bits;
  return nullptr;
}

}  // namespace

const char* fault() {
  static const char* const found = test();
  return found;
}

int64_t fewest_tile_rows(DType operand, int64_t depth) {
  if (!thread_has_tiles()) return 0;
  return operand == DType::int8 ? fewest_for<Int8Tiles>(depth) : fewest_for<Bfloat16Tiles>(depth);
}

}  // namespace fastbert::cpu::FASTBERT_ISA
#else
namespace fastbert::cpu::FASTBERT_ISA {

const char* fault() { return nullptr; }
int64_t fewest_tile_rows(DType, int64_t) { return 0; }

}  // namespace fastbert::cpu::FASTBERT_ISA
#endif
