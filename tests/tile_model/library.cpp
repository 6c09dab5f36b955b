// The kernels of the instruction set amx for the tests, which call them one at a time through ctypes.
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/tiles.h"
#include "tile_model.h"

namespace fastbert::cpu::amx {
extern const Kernels kernels;
}

using namespace fastbert;
using namespace fastbert::cpu;

extern "C" {
#define EXPORTED __attribute__((visibility("default")))

EXPORTED const char* fault() { return amx::kernels.fault(); }

EXPORTED int64_t fewest_tile_rows(int32_t operand, int64_t depth) {
  return amx::kernels.fewest_tile_rows(static_cast<DType>(operand), depth);
}

EXPORTED int64_t packed_matrix_bytes(int64_t outputs, int64_t depth, int32_t operand) {
  return amx::kernels.packed_matrix_bytes(outputs, depth, static_cast<DType>(operand));
}

EXPORTED void pack_matrix(const float* weight, const float* bias, int64_t outputs, int64_t depth, int32_t operand,
                          void* memory) {
  amx::kernels.pack_matrix(weight, bias, {memory, outputs, depth, static_cast<DType>(operand)}, memory);
}

EXPORTED int64_t quantised_row_bytes(int64_t count) { return amx::kernels.quantised_row_bytes(count); }

EXPORTED void quantise_row(const float* values, int64_t count, uint8_t* bytes, float* scale, int32_t* shift) {
  amx::kernels.quantise_row(values, DType::float32, count, bytes, scale, shift);
}

// All columns of rows [begin, end), as float32 [end, outputs].
EXPORTED void product(const void* memory, int64_t outputs, int64_t depth, int32_t operand, const void* rows,
                      int64_t stride, const float* scale, const int32_t* shift, int32_t epilogue, const float* residual,
                      float* out, int64_t begin, int64_t end) {
  const auto dtype = static_cast<DType>(operand);
  const int64_t width = amx::kernels.panel_width;
  amx::kernels.product(
      {memory, outputs, depth, dtype}, {rows, dtype, stride, scale, shift},
      {out, DType::float32, outputs, static_cast<Epilogue>(epilogue), residual, DType::float32, outputs}, {begin, end},
      {0, (outputs + width - 1) / width});
}

EXPORTED int64_t attention_scratch(int64_t n, int64_t head_size) {
  return amx::kernels.self_attention_scratch(n, head_size);
}

// Head `head` of bfloat16 rows [n, 3 width].
EXPORTED void attention(const uint16_t* rows, int64_t n, int64_t width, int64_t head_size, int64_t head,
                        uint16_t* context, float* scratch) {
  amx::kernels.self_attention({rows + head * head_size, context + head * head_size, DType::bfloat16, DType::bfloat16, n,
                               head_size, width, 3 * width, width},
                              scratch);
}

// Whether nobody has tiles configured in this thread.
EXPORTED int32_t tiles_are_released() { return tile_model::state().configured ? 0 : 1; }

// As a library does that leaves tiles behind: other shapes than ours, and something in all of them.
EXPORTED void leave_tiles_configured() {
  _tile_release();
  tile_model::state().configured = true;
  for (tile_model::Tile& tile : tile_model::state().tiles) {
    tile.rows = 3;
    tile.row_bytes = 20;
    std::memset(tile.memory, 77, sizeof tile.memory);
  }
}
}
