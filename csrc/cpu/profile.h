// Where the time of the encoder goes, for benchmarks/profile_encoder.py. Off, a stopwatch costs one test per phase.
#pragma once
#include <array>
#include <chrono>
#include <cstddef>

namespace fastbert::cpu {

enum class Phase { qkv, attention, attention_output, norm, intermediate, output, head, compaction };
constexpr size_t kPhases = 8;
constexpr std::array<const char*, kPhases> kPhaseNames = {
    "qkv", "attention", "attention_output", "norm", "intermediate", "output", "head", "compaction"};

struct Profile {
  bool on = false;
  std::array<double, kPhases> seconds = {};
};

// One for the process: profiling two encoders at once would mix them up.
inline Profile& profile() {
  static Profile instance;
  return instance;
}

// Gives the time since the last lap, or since it was made, to a phase.
class Stopwatch {
 public:
  // `first`: whether this is the thread that counts; the others wait for it at the end of a phase anyway.
  explicit Stopwatch(bool first) : on_(first && profile().on) {
    if (on_) last_ = Clock::now();
  }

  void lap(Phase phase) {
    if (!on_) return;
    const Clock::time_point now = Clock::now();
    profile().seconds[static_cast<size_t>(phase)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool on_;
  Clock::time_point last_;
};

}  // namespace fastbert::cpu
