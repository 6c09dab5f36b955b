// The engine's own threads. Work is shared out in pieces, which whoever is free takes one after another.
//
// The thread that shares work out takes part in it, so that nothing ever waits for a thread that the system has not
// scheduled, other than for a piece that such a thread has begun. A piece may share out work of its own: it is finished
// by its own thread where all others are busy, and with the help of those that have nothing left to do. Threads without
// work spin for some microseconds and then sleep. They are started when first needed, and anew in a forked child.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace fastbert::cpu {

struct CallLimits {
  int threads = 1;     // that may work on this call, the calling thread among them
  int processors = 1;  // threads that may work at once, on all calls together
  // Asked by the calling thread, some times a second; true ends the call. nullptr: nobody is asked.
  bool (*interrupted)() = nullptr;
};

// Thrown out of parallel_for where a call has been interrupted.
struct Interrupted {};

// A call from outside: what the calling thread shares out during the life of such an object is worked on within its
// limits. Without one, parallel_for is a plain loop.
class Call {
 public:
  explicit Call(const CallLimits& limits);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const CallLimits& limits() const { return limits_; }

  // Throws Interrupted once the call has to end. Made before every piece, whichever thread takes it.
  void check();
  // The part of check that asks, on the calling thread and not more often than the limits say.
  void ask();
  bool is_mine() const { return std::this_thread::get_id() == caller_; }
  bool ended() const { return ended_.load(std::memory_order_relaxed); }

  // Whether one thread more may work on the call; each that may has to leave.
  bool admit() { return helpers_.fetch_add(1, std::memory_order_relaxed) < limits_.threads - 1; }
  void leave() { helpers_.fetch_sub(1, std::memory_order_relaxed); }
  int helpers() const { return helpers_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  const CallLimits limits_;
  const std::thread::id caller_ = std::this_thread::get_id();
  const unsigned generation_;
  Call* const outer_call_;
  const int outer_depth_;
  const bool counted_;  // as one thread more: not so inside a call of the same thread
  Clock::time_point next_question_;
  std::atomic<bool> ended_{false};
  alignas(64) std::atomic<int> helpers_{0};
};

// How many threads may work on the present call.
int available_threads();

// While it lives, its thread shares nothing out: for work that is done before another thread is awake.
class Alone {
 public:
  explicit Alone(bool alone);
  ~Alone();
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  const bool before_;
};

using Piece = void (*)(const void* body, int64_t piece);
void parallel_for(int64_t count, Piece run, const void* body);

// body(piece) for every piece in 0 .. count - 1, by any thread and in any order; returns when all are done. What a piece
// throws is thrown here, once those that have begun are done; the others are left out.
template <class Body>
void parallel_for(int64_t count, const Body& body) {
  parallel_for(count, [](const void* b, int64_t piece) { (*static_cast<const Body*>(b))(piece); }, &body);
}

// The same for blocks of about `block` neighbouring items: body(begin, end).
template <class Body>
void parallel_for_blocks(int64_t count, int64_t block, const Body& body) {
  parallel_for((count + block - 1) / block, [&](int64_t piece) {
    const int64_t begin = piece * block;
    body(begin, begin + block < count ? begin + block : count);
  });
}

}  // namespace fastbert::cpu
