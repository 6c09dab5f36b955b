// Where the time of the encoder goes, for benchmarks/profile_encoder.py. Off, a stopwatch costs one test per phase.
#pragma once
#include <array>
#include <chrono>
#include <cstddef>
#include <mutex>

namespace fastbert::cpu {

enum class Phase { qkv, attention, attention_output, norm, intermediate, output, head, compaction };
constexpr size_t kPhases = 8;
constexpr std::array<const char*, kPhases> kPhaseNames = {
    "qkv", "attention", "attention_output", "norm", "intermediate", "output", "head", "compaction"};

using PhaseSeconds = std::array<double, kPhases>;

struct Profile {
  bool on = false;
  PhaseSeconds seconds = {};
};

// One for the process: profiling two encoders at once would mix them up.
inline Profile& profile() {
  static Profile instance;
  return instance;
}

// Where a stopwatch of the calling thread writes, nullptr when nobody asks.
inline PhaseSeconds* profiled() { return profile().on ? &profile().seconds : nullptr; }

// Gives the time since the last lap, or since it was made, to a phase.
class Stopwatch {
 public:
  // nullptr: it stands still.
  explicit Stopwatch(PhaseSeconds* seconds) : seconds_(seconds) {
    if (seconds_) last_ = Clock::now();
  }

  void lap(Phase phase) {
    if (!seconds_) return;
    const Clock::time_point now = Clock::now();
    (*seconds_)[static_cast<size_t>(phase)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;

  PhaseSeconds* seconds_;
  Clock::time_point last_;
};

// For work of which threads take pieces: each phase gets the share of the time that passed that it is of all that they
// measured. A thread without a piece helps another one, or waits for it, and that counts where the other spends its time.
class SharedPhases {
 public:
  SharedPhases() : on_(profile().on) {
    if (on_) begin_ = Clock::now();
  }
  ~SharedPhases() {
    double measured = 0;
    for (const double seconds : seconds_) measured += seconds;
    if (measured == 0) return;
    const double passed = std::chrono::duration<double>(Clock::now() - begin_).count();
    for (size_t i = 0; i < kPhases; ++i) profile().seconds[i] += seconds_[i] * passed / measured;
  }
  SharedPhases(const SharedPhases&) = delete;
  SharedPhases& operator=(const SharedPhases&) = delete;

  bool on() const { return on_; }
  // From any thread.
  void add(const PhaseSeconds& seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < kPhases; ++i) seconds_[i] += seconds[i];
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool on_;
  Clock::time_point begin_;
  std::mutex mutex_;
  PhaseSeconds seconds_ = {};
};

}  // namespace fastbert::cpu
