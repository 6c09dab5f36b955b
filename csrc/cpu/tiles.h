// Tile registers (AMX): whether this process and its threads may use them. The system has to be asked, and says no where it
// does not save them.
#pragma once

namespace fastbert::cpu {

// nullptr, or why this process has no tiles. The system is asked once, at the first call.
const char* tiles_missing();

// Whether the calling thread has them, too: some sandboxes refuse what they gave to the process. Asked once per thread; a
// thread without them multiplies with vectors.
bool thread_has_tiles();

// What is asked of processor and system; the tests have others (tests/tile_model).
namespace tile_system {
bool processor_has_tiles();
bool request_permission();
bool has_permission();
}  // namespace tile_system

}  // namespace fastbert::cpu
