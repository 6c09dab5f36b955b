#include "cpu/memory.h"

#include <algorithm>
#include <new>
#include <vector>

namespace fastbert::cpu {
namespace {

constexpr std::align_val_t kCacheLine{64};
constexpr size_t kKept = size_t{64} << 20;  // bytes that a thread keeps at most; beyond, work dwarfs the faults

struct alignas(64) Block {  // in front of the memory
  size_t bytes;
};

void free_block(Block* block) { ::operator delete(block, kCacheLine); }

class Keeper {
 public:
  ~Keeper() { std::for_each(blocks_.begin(), blocks_.end(), free_block); }

  // The smallest block that is large enough, unless most of it would lie idle.
  Block* take(size_t bytes) {
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      const size_t size = (*block)->bytes;
      if (size >= bytes && size / 2 <= bytes && (best == blocks_.end() || size < (*best)->bytes)) best = block;
    }
    if (best == blocks_.end()) return nullptr;
    Block* block = *best;
    kept_ -= block->bytes;
    blocks_.erase(best);
    return block;
  }

  void keep(Block* block) {
    if (block->bytes > kKept) return free_block(block);
    while (kept_ + block->bytes > kKept) {  // the oldest go
      kept_ -= blocks_.front()->bytes;
      free_block(blocks_.front());
      blocks_.erase(blocks_.begin());
    }
    blocks_.push_back(block);
    kept_ += block->bytes;
  }

 private:
  std::vector<Block*> blocks_;
  size_t kept_ = 0;
};

thread_local Keeper keeper;

}  // namespace

void* take_memory(size_t bytes) {
  Block* block = keeper.take(bytes);
  if (block == nullptr) {
    block = static_cast<Block*>(::operator new(sizeof(Block) + bytes + 64, kCacheLine));
    block->bytes = bytes;
  }
  return block + 1;
}

void give_back_memory(void* memory) { keeper.keep(static_cast<Block*>(memory) - 1); }

}  // namespace fastbert::cpu
