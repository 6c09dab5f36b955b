#include "cpu/threads.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>

#include <pthread.h>
#include <signal.h>

namespace fastbert::cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRegions = 64;  // open at once; what is shared out beyond them is done by its own thread
// Longer than the way from one product to the next, shorter than anything that a neighbour would notice.
constexpr std::chrono::microseconds kSpin{50};
constexpr std::chrono::milliseconds kBetweenQuestions{50};

std::atomic<unsigned> generation{0};  // forks between this process and the one that loaded the module

// What the present thread works on.
struct Self {
  Call* call = nullptr;
  int depth = 0;  // pieces that it is inside of
  bool alone = false;
};
thread_local Self self;

void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Spin {
 public:
  // Whether to look again rather than to sleep.
  bool again() {
    pause_processor();
    if (++looks_ % 32 != 0) return true;
    if (looks_ == 32) end_ = Clock::now() + kSpin;
    return Clock::now() < end_;
  }

 private:
  Clock::time_point end_;
  unsigned looks_ = 0;
};

// One parallel_for. Regions stay in the pool when they end, so that a thread that comes late finds one that is closed.
struct alignas(64) Region {
  static constexpr uint32_t kOpen = 1u << 31;     // threads may join
  static constexpr uint32_t kAwaited = 1u << 30;  // its owner sleeps until the last of them has left
  static constexpr uint32_t kHelpers = kAwaited - 1;

  int64_t count = 0;
  Piece run = nullptr;
  const void* body = nullptr;
  Call* call = nullptr;
  bool nested = false;  // inside a piece of another
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  alignas(64) std::atomic<uint32_t> state{0};  // kOpen, kAwaited and the number of threads that joined
  alignas(64) std::atomic<int64_t> next{0};    // piece

  bool is_exhausted() const { return next.load(std::memory_order_relaxed) >= count; }
  bool has_helpers() const { return (state.load(std::memory_order_acquire) & kHelpers) != 0; }

  void fail() {
    if (!failed.exchange(true)) error = std::current_exception();
    next.store(count, std::memory_order_relaxed);
  }

  // Takes pieces until none is left, or until there are too many threads.
  template <class TooMany>
  void work(const TooMany& too_many) {
    ++self.depth;
    for (int64_t piece; !too_many() && (piece = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      try {
        call->check();
        run(body, piece);
      } catch (...) {
        fail();
      }
    }
    --self.depth;
  }
};

class Pool {
 public:
  // nullptr when there are no more regions.
  Region* open(int64_t count, Piece run, const void* body, Call& call) {
    const int index = take_region();
    if (index < 0) return nullptr;
    Region& region = regions_[index];
    region.count = count;
    region.run = run;
    region.body = body;
    region.call = &call;
    region.nested = self.depth > 0;
    region.failed.store(false, std::memory_order_relaxed);
    region.next.store(0, std::memory_order_relaxed);
    region.state.store(Region::kOpen, std::memory_order_release);
    open_[region.nested].fetch_or(bit(index));
    start_threads(call.limits().threads - 1);
    const int64_t wanted = std::min<int64_t>({count - 1, call.limits().threads - 1 - call.helpers(),
                                              call.limits().processors - running_.load(std::memory_order_relaxed)});
    if (wanted > spinning_.load() && sleeping_.load() > 0) wake(wanted);
    return &region;
  }

  // When the last piece is done; rethrows what one of them threw.
  void close(Region& region) {
    hide(region);
    region.state.fetch_and(~Region::kOpen);
    wait_for_helpers(region);
    const std::exception_ptr error = std::move(region.error);
    taken_.fetch_and(~bit(index_of(region)), std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

  void enter() { running_.fetch_add(1, std::memory_order_relaxed); }
  void leave() { running_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  static uint64_t bit(int index) { return uint64_t{1} << index; }
  int index_of(const Region& region) const { return static_cast<int>(&region - regions_); }

  int take_region() {
    uint64_t taken = taken_.load(std::memory_order_relaxed);
    for (;;) {
      if (~taken == 0) return -1;
      const int index = __builtin_ctzll(~taken);
      if (taken_.compare_exchange_weak(taken, taken | bit(index), std::memory_order_acquire)) return index;
    }
  }

  // Nobody else has to come. To be called by threads that are inside the region: afterwards it may be another one.
  void hide(const Region& region) {
    const uint64_t mask = bit(index_of(region));
    if (open_[region.nested].load(std::memory_order_relaxed) & mask) open_[region.nested].fetch_and(~mask);
  }

  void start_threads(int count) {
    if (threads_.load(std::memory_order_relaxed) >= count) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    sigset_t all, before;  // signals are for the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (threads_.load(std::memory_order_relaxed) < count) {
        std::thread([this] { live(); }).detach();
        threads_.fetch_add(1, std::memory_order_relaxed);
      }
    } catch (const std::system_error&) {
      // No more threads for this process: those that are there do the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  [[noreturn]] void live() {
    for (;;) {
      spinning_.fetch_add(1);
      bool worked = false;
      for (Spin spin; !worked && spin.again();) {
        if ((open_[0].load() | open_[1].load()) == 0) continue;
        spinning_.fetch_sub(1);
        worked = help(nullptr);
        spinning_.fetch_add(1);
      }
      if (worked) {
        spinning_.fetch_sub(1);
        continue;
      }
      sleeping_.fetch_add(1);  // before the last look: who opens a region then sees a sleeper, or is seen
      const uint32_t epoch = epoch_.load();
      spinning_.fetch_sub(1);
      if (!help(nullptr)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return epoch_.load() != epoch; });
      }
      sleeping_.fetch_sub(1);
    }
  }

  // Works on a region that lets it in, if there is one: whole pieces of calls first, for they need no one else. With
  // `call`, whose thread this is, only on what its helpers have shared out.
  bool help(const Call* call) {
    for (int nested = call ? 1 : 0; nested < 2; ++nested)
      for (uint64_t open = open_[nested].load(); open != 0; open &= open - 1)
        if (join(regions_[__builtin_ctzll(open)], call)) return true;
    return false;
  }

  bool join(Region& region, const Call* own) {
    uint32_t state = region.state.load(std::memory_order_relaxed);
    do {
      if (!(state & Region::kOpen)) return false;
    } while (!region.state.compare_exchange_weak(state, state + 1, std::memory_order_acquire));
    const bool worked = own ? own == region.call && help_own(region) : work_as_helper(region);
    if ((region.state.fetch_sub(1) & (Region::kHelpers | Region::kAwaited)) == (Region::kAwaited | 1)) wake(kEveryone);
    return worked;
  }

  bool help_own(Region& region) {
    region.work([] { return false; });
    if (region.is_exhausted()) hide(region);
    return true;
  }

  bool work_as_helper(Region& region) {
    Call& call = *region.call;
    bool worked = false;
    if (call.admit()) {
      const int processors = call.limits().processors;
      if (running_.fetch_add(1, std::memory_order_relaxed) < processors) {
        self.call = &call;
        region.work([&] { return running_.load(std::memory_order_relaxed) > processors; });  // a call has come since
        self.call = nullptr;
        if (region.is_exhausted()) hide(region);
        worked = true;
      }
      running_.fetch_sub(1, std::memory_order_relaxed);
    }
    call.leave();
    return worked;
  }

  void wait_for_helpers(Region& region) {
    Call& call = *region.call;
    const auto helped = [&] { return !region.nested && help(&call); };
    for (Spin spin; region.has_helpers();) {
      if (helped()) {
        spin = {};
      } else if (!spin.again()) {
        call.ask();
        sleeping_.fetch_add(1);
        const uint32_t epoch = epoch_.load();
        region.state.fetch_or(Region::kAwaited);
        if (region.has_helpers() && !helped()) {
          std::unique_lock<std::mutex> lock(mutex_);
          wake_.wait_for(lock, kBetweenQuestions, [&] { return epoch_.load() != epoch; });
        }
        region.state.fetch_and(~Region::kAwaited);
        sleeping_.fetch_sub(1);
      }
    }
  }

  static constexpr int64_t kEveryone = 1 << 30;
  void wake(int64_t count) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      epoch_.fetch_add(1);
    }
    if (count >= sleeping_.load()) {
      wake_.notify_all();
    } else {
      for (; count > 0; --count) wake_.notify_one();
    }
  }

  Region regions_[kRegions];
  alignas(64) std::atomic<uint64_t> open_[2] = {};  // a bit for each region that may have pieces left; [1] nested ones
  alignas(64) std::atomic<uint64_t> taken_{0};
  std::atomic<int> running_{0};               // threads inside calls
  alignas(64) std::atomic<int> spinning_{0};  // threads that will see what is opened
  std::atomic<int> sleeping_{0};              // threads that have to be woken
  std::atomic<int> threads_{0};
  std::atomic<uint32_t> epoch_{0};  // of wakings; written under the mutex
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Made when the module is loaded, before anybody can fork, and never destroyed: its threads outlive main.
Pool& make_pool() {
  static Pool* const made = new Pool;
  // The threads of the parent are not there, and its locks may be held by them.
  pthread_atfork(nullptr, nullptr, [] {
    generation.fetch_add(1);
    new (made) Pool;
  });
  return *made;
}
Pool& pool = make_pool();

}  // namespace

Call::Call(const CallLimits& limits)
    : limits_(limits),
      generation_(generation.load()),
      outer_call_(self.call),
      outer_depth_(self.depth),
      counted_(outer_call_ == nullptr || outer_call_->generation_ != generation_),
      next_question_(Clock::now() + kBetweenQuestions) {
  self.call = this;
  self.depth = 0;
  if (counted_) pool.enter();
}

Call::~Call() {
  if (counted_ && generation_ == generation.load()) pool.leave();
  self.call = outer_call_;
  self.depth = outer_depth_;
}

void Call::check() {
  ask();
  if (ended()) throw Interrupted{};
}

void Call::ask() {
  if (limits_.interrupted == nullptr || ended() || !is_mine()) return;
  if (Clock::now() < next_question_) return;
  const bool interrupted = limits_.interrupted();
  next_question_ = Clock::now() + kBetweenQuestions;
  // Whoever is asked may fork: in the child nobody has the pieces that other threads had taken.
  if (interrupted || generation_ != generation.load()) ended_.store(true, std::memory_order_relaxed);
}

int available_threads() { return self.call && !self.alone ? self.call->limits().threads : 1; }

Alone::Alone(bool alone) : before_(self.alone) { self.alone = before_ || alone; }
Alone::~Alone() { self.alone = before_; }

void parallel_for(int64_t count, Piece run, const void* body) {
  Call* call = self.call;
  Region* region = count > 1 && available_threads() > 1 ? pool.open(count, run, body, *call) : nullptr;
  if (region == nullptr) {
    for (int64_t piece = 0; piece < count; ++piece) {
      if (call) call->check();
      run(body, piece);
    }
    return;
  }
  region->work([] { return false; });
  pool.close(*region);
  if (call->ended()) throw Interrupted{};
}

}  // namespace fastbert::cpu
