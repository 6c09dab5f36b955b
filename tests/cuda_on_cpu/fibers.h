// Threads of a CUDA grid as fibers on one CPU thread: each has its own stack, and a scheduler lets one run until it
// waits for the others. Blocks run one after another.
#pragma once
#include <driver_types.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

constexpr unsigned WARP = 32;
constexpr size_t STACK_BYTES = 256 * 1024;
constexpr size_t GUARD_BYTES = 4096;

struct Dim3 {
  unsigned x, y, z;
  Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct AsyncCopy {
  void* target;
  const void* source;
  unsigned source_bytes;
  unsigned bytes;

  void run() const {
    std::memcpy(target, source, source_bytes);
    std::memset(static_cast<char*>(target) + source_bytes, 0, bytes - source_bytes);
  }
};

enum class State { ready, at_barrier, in_collective, finished };

struct Block;
struct Thread;
using Collective = void (*)(Thread* const* lanes);

struct Thread {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  char* stack = nullptr;
  void* sanitizer_stack = nullptr;
  Block* block = nullptr;
  Dim3 index;
  unsigned rank = 0;
  State state = State::ready;
  int barrier_line = 0;
  Collective collective = nullptr;
  void* operands = nullptr;
  std::vector<AsyncCopy> open_copies;
  std::deque<std::vector<AsyncCopy>> copy_groups;

  unsigned lane() const { return rank % WARP; }
  Thread* const* warp() const;
};

struct Block {
  Dim3 index, size, grid;
  std::vector<Thread*> threads;
  std::vector<unsigned> in_collective;  // lanes of each warp
  unsigned char* shared = nullptr;
  unsigned at_barrier = 0;
  unsigned finished = 0;
};

inline Thread* const* Thread::warp() const { return block->threads.data() + rank / WARP * WARP; }

// The settings that a test chooses, and what the CUDA runtime of the tests reports.
struct Machine {
  unsigned order_seed = 0;
  int driver_version = 13000;
  int multiprocessors = 4;
  int shared_bytes_per_block = 232448;  // of sm_90
  int shared_bytes_per_multiprocessor = 233472;
  int granted_shared_bytes = 48 * 1024;  // by the latest cudaFuncSetAttribute
  cudaError_t last_error = cudaSuccess;
  int64_t launches = 0;
  int64_t shared_bytes = 0;     // dynamic, of the latest launch
  int64_t bank_conflicts = 0;   // of matrix loads, since the latest launch began
  int64_t matrix_products = 0;  // since the latest launch began
};

inline Machine machine;
inline Thread* current = nullptr;
inline void (*kernel_body)(void*) = nullptr;
inline void* kernel_closure = nullptr;

[[noreturn]] inline void fail(const char* message) {
  if (current != nullptr) {
    std::fprintf(stderr, "cuda_on_cpu: block %u thread %u: ", current->block->index.x, current->rank);
  }
  std::fprintf(stderr, "%s\n", message);
  std::abort();
}

#if defined(__SANITIZE_ADDRESS__)
inline const void* scheduler_bottom = nullptr;
inline size_t scheduler_bytes = 0;
#endif

#if defined(__x86_64__)
// swapcontext makes two system calls a switch; this makes none.
inline void* scheduler_stack = nullptr;
__attribute__((naked, noinline)) inline void swap_stack(void** /*save*/, void* /*load*/) {
  asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15; movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}
#else
inline ucontext_t scheduler_context;
#endif

// Gives control back until the scheduler resumes this thread.
inline void to_scheduler() {
  Thread* self = current;
#if defined(__SANITIZE_ADDRESS__)
  void** keep = self->state == State::finished ? nullptr : &self->sanitizer_stack;
  __sanitizer_start_switch_fiber(keep, scheduler_bottom, scheduler_bytes);
#endif
#if defined(__x86_64__)
  swap_stack(&self->stack_pointer, scheduler_stack);
#else
  swapcontext(&self->context, &scheduler_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->sanitizer_stack, &scheduler_bottom, &scheduler_bytes);
#endif
}

inline void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_bytes);
#endif
  kernel_body(kernel_closure);
  for (const auto& group : current->copy_groups) {
    if (!group.empty()) fail("a thread ended with copies under way");
  }
  if (!current->open_copies.empty()) fail("a thread ended with copies that were never committed");
  current->state = State::finished;
  ++current->block->finished;
  to_scheduler();
  std::abort();
}

inline void resume(Thread* thread) {
  current = thread;
#if defined(__SANITIZE_ADDRESS__)
  void* sanitizer_stack = nullptr;
  __sanitizer_start_switch_fiber(&sanitizer_stack, thread->stack, STACK_BYTES);
#endif
#if defined(__x86_64__)
  swap_stack(&scheduler_stack, thread->stack_pointer);
#else
  swapcontext(&scheduler_context, &thread->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(sanitizer_stack, nullptr, nullptr);
#endif
  current = nullptr;
}

// Threads are kept for the next block, stacks and all. A page that cannot be touched lies below each stack.
inline Thread* pooled_thread(size_t rank) {
  static std::vector<Thread*> pool;
  while (pool.size() <= rank) {
    void* memory = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) fail("no memory for a stack");
    pool.push_back(new Thread);
    pool.back()->stack = static_cast<char*>(memory) + GUARD_BYTES;
  }
  return pool[rank];
}

inline void start(Thread* thread) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(thread->stack, STACK_BYTES);  // the last block's frames were left, not returned from
#endif
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(thread->stack + STACK_BYTES) - 2;  // as the call of thread_main would leave it
  top[0] = reinterpret_cast<void*>(&thread_main);
  top[1] = nullptr;
  thread->stack_pointer = top - 6;  // six registers that the first switch restores
  std::memset(thread->stack_pointer, 0, 6 * sizeof(void*));
#else
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp = thread->stack;
  thread->context.uc_stack.ss_size = STACK_BYTES;
  thread->context.uc_link = nullptr;
  makecontext(&thread->context, thread_main, 0);
#endif
}

// Runs the lanes of a warp, each until it waits, as long as there is one that can run.
inline bool run_warp(Block& block, unsigned first, unsigned offset) {
  const unsigned lanes = std::min<unsigned>(WARP, block.threads.size() - first);
  bool any = false;
  for (bool ran = true; ran;) {
    ran = false;
    for (unsigned i = 0; i < lanes; ++i) {
      Thread* thread = block.threads[first + (lanes == WARP ? (i * 17 + offset) % WARP : i)];
      if (thread->state != State::ready) continue;
      resume(thread);
      ran = any = true;
    }
  }
  return any;
}

inline void release_barrier(Block& block) {
  for (Thread* thread : block.threads) {
    if (thread->barrier_line != block.threads[0]->barrier_line) fail("threads of a block wait at different barriers");
    thread->state = State::ready;
  }
  block.at_barrier = 0;
}

inline void run_block(Block& block) {
  const unsigned threads = block.size.x * block.size.y * block.size.z;
  const unsigned warps = (threads + WARP - 1) / WARP;
  block.in_collective.assign(warps, 0);
  for (unsigned rank = 0; rank < threads; ++rank) {
    Thread* thread = pooled_thread(rank);
    thread->index = Dim3(rank % block.size.x, rank / block.size.x % block.size.y, rank / (block.size.x * block.size.y));
    thread->rank = rank;
    thread->state = State::ready;
    thread->block = &block;
    thread->copy_groups.clear();
    start(thread);
    block.threads.push_back(thread);
  }
  unsigned random = machine.order_seed;
  while (block.finished < threads) {
    if (random != 0) random = random * 1664525u + 1013904223u;
    const unsigned offset = random >> 8;
    bool any = false;
    for (unsigned warp = 0; warp < warps; ++warp) any |= run_warp(block, (warp + offset) % warps * WARP, offset);
    if (block.at_barrier == threads) {
      release_barrier(block);
    } else if (!any) {
      fail("deadlock: not all threads reach the same barrier or warp collective");
    }
  }
}

template <typename Body>
void launch(Dim3 grid, Dim3 block_size, size_t shared_bytes, Body body) {
  ++machine.launches;
  machine.shared_bytes = static_cast<int64_t>(shared_bytes);
  machine.bank_conflicts = 0;
  machine.matrix_products = 0;
  if (grid.x == 0 || grid.y > 65535 || block_size.x > 1024) {
    machine.last_error = cudaErrorInvalidConfiguration;
    return;
  }
  if (shared_bytes > static_cast<size_t>(std::max(48 * 1024, machine.granted_shared_bytes))) {
    machine.last_error = cudaErrorInvalidValue;
    return;
  }
  kernel_body = [](void* closure) { (*static_cast<Body*>(closure))(); };
  kernel_closure = &body;
  auto* shared = static_cast<unsigned char*>(::operator new(shared_bytes, std::align_val_t(128)));
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        Block block;
        block.index = Dim3(x, y, z);
        block.size = block_size;
        block.grid = grid;
        block.shared = shared;
        std::memset(shared, 0xff, shared_bytes);  // NaN in every floating point type
        run_block(block);
      }
    }
  }
  ::operator delete(shared, std::align_val_t(128));
}

}  // namespace cuda_on_cpu
