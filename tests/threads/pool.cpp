// The engine's threads by themselves, without Python: csrc/cpu/threads.cpp under load. Run with the name of a test;
// prints what went wrong and returns 1, or returns 0. Built plainly and under ThreadSanitizer by test_pool.py.
#include "cpu/threads.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

using namespace fastbert::cpu;

namespace {

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      std::fprintf(stderr, "line %d: %s is not so\n", __LINE__, #condition); \
      std::exit(1);                                                          \
    }                                                                        \
  } while (false)

void sleep_ms(int count) { std::this_thread::sleep_for(std::chrono::milliseconds(count)); }

// Until two threads are inside at once; false when that takes seconds.
class Rendezvous {
 public:
  bool meet() {
    ++arrived_;
    for (int i = 0; i < 5000 && arrived_ < 2; ++i) sleep_ms(1);
    return arrived_ >= 2;
  }

 private:
  std::atomic<int> arrived_{0};
};

// Sums of squares by way of nested regions, whose results are plain memory: a missing wait is a wrong sum and a race.
int64_t nested_sum(int64_t outer, int64_t inner) {
  std::vector<int64_t> sums(outer);
  parallel_for(outer, [&](int64_t i) {
    std::vector<int64_t> squares(inner);
    parallel_for(inner, [&](int64_t j) { squares[j] = (i + j) * (i + j); });
    for (const int64_t square : squares) sums[i] += square;
  });
  int64_t sum = 0;
  for (const int64_t part : sums) sum += part;
  return sum;
}

int64_t plain_sum(int64_t outer, int64_t inner) {
  int64_t sum = 0;
  for (int64_t i = 0; i < outer; ++i)
    for (int64_t j = 0; j < inner; ++j) sum += (i + j) * (i + j);
  return sum;
}

void many_small_regions() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([caller] {
      for (int round = 0; round < 400; ++round) {
        const Call call({1 + (caller + round) % 5, 3, nullptr});
        const int64_t outer = 1 + round % 7, inner = 1 + (round * 13 + caller) % 23;
        CHECK(nested_sum(outer, inner) == plain_sum(outer, inner));
        if (round % 50 == 0) sleep_ms(1);  // the threads fall asleep
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// More regions at once than the pool has.
int64_t deep(int depth) {
  if (depth == 0) return 1;
  std::atomic<int64_t> sum{0};
  parallel_for(2, [&](int64_t) { sum += deep(depth - 1); });
  return sum;
}

void deep_nesting() {
  const Call call({3, 3, nullptr});
  CHECK(deep(9) == 512);
  std::function<void(int)> narrow = [&](int depth) {
    if (depth > 0) parallel_for(2, [&](int64_t piece) { piece == 0 ? narrow(depth - 1) : void(); });
  };
  narrow(100);
}

void others_take_part() {
  const Call call({2, 2, nullptr});
  for (int round = 0; round < 3; ++round) {
    Rendezvous pieces, inside;
    parallel_for(2, [&](int64_t) { CHECK(pieces.meet()); });
    // A thread without a piece of its own helps with what a piece shares out; the caller does, too.
    parallel_for(2, [&](int64_t piece) {
      if (piece == 0) return;
      sleep_ms(2);
      parallel_for(2, [&](int64_t) { CHECK(inside.meet()); });
    });
    sleep_ms(5);
  }
}

void limits_are_kept() {
  std::atomic<int> on_all{0};
  Rendezvous both;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 2; ++caller) {
    callers.emplace_back([&] {
      const Call call({3, 3, nullptr});
      CHECK(both.meet());
      std::atomic<int> inside{0};
      for (int round = 0; round < 20; ++round) {
        parallel_for(40, [&](int64_t) {
          CHECK(++inside <= 3);
          CHECK(++on_all <= 3);  // two callers leave one processor
          std::this_thread::sleep_for(std::chrono::microseconds(100));
          --on_all;
          --inside;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const auto this_thread = std::this_thread::get_id();
  const auto alone_here = [&] { parallel_for(50, [&](int64_t) { CHECK(std::this_thread::get_id() == this_thread); }); };
  alone_here();  // no call
  const Call call({1, 8, nullptr});
  alone_here();
  const Call inner({4, 4, nullptr});
  const Alone alone(true);
  alone_here();
}

void errors_arrive() {
  const Call call({3, 3, nullptr});
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> begun{0}, done{0};
    try {
      parallel_for(64, [&](int64_t i) {
        ++begun;
        parallel_for(8, [&](int64_t j) {
          if (i == round % 64 && j == 5) throw std::runtime_error("piece " + std::to_string(i));
        });
        ++done;
      });
      CHECK(false);
    } catch (const std::runtime_error& error) {
      CHECK(error.what() == "piece " + std::to_string(round % 64));
    }
    CHECK(begun == done + 1);  // nobody is inside any more
  }
  CHECK(nested_sum(10, 10) == plain_sum(10, 10));
}

std::atomic<bool> asked_to_end{false};
std::atomic<int> questions{0};
std::thread::id asked_on;
bool interrupted() {
  ++questions;
  CHECK(std::this_thread::get_id() == asked_on);
  return asked_to_end;
}

void a_call_is_interrupted() {
  asked_on = std::this_thread::get_id();
  for (const int threads : {1, 3}) {
    asked_to_end = false;
    questions = 0;
    const Call call({threads, threads, &interrupted});
    const auto begin = std::chrono::steady_clock::now();
    std::thread signal([] {
      sleep_ms(150);
      asked_to_end = true;
    });
    try {
      parallel_for(100, [](int64_t) { parallel_for(1000, [](int64_t) { sleep_ms(1); }); });
      CHECK(false);
    } catch (const Interrupted&) {
    }
    signal.join();
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));  // of 33 and more
    CHECK(questions >= 2);
    bool ran = false;
    try {
      parallel_for(1, [&](int64_t) { ran = true; });
      CHECK(false);
    } catch (const Interrupted&) {  // it stays ended
      CHECK(!ran);
    }
  }
  // The caller has nothing left to do but to wait.
  asked_to_end = true;
  Rendezvous both;
  const Call call({2, 2, &interrupted});
  const auto caller = std::this_thread::get_id();
  try {
    parallel_for(2, [&](int64_t) {
      CHECK(both.meet());
      if (std::this_thread::get_id() == caller) return;
      for (int i = 0; i < 5000; ++i) parallel_for(1, [](int64_t) { sleep_ms(1); });
      CHECK(false);
    });
    CHECK(false);
  } catch (const Interrupted&) {
  }
  const Call next({2, 2, nullptr});
  CHECK(nested_sum(10, 10) == plain_sum(10, 10));
}

// 0 when the child answered in time.
template <class Run>
void in_a_child(const Run& run) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(20);
    run();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void children_have_threads_of_their_own() {
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 2; ++caller) {
    callers.emplace_back([&] {
      while (!stop) {
        const Call call({3, 4, nullptr});
        nested_sum(7, 9);
      }
    });
  }
  for (int round = 0; round < 30; ++round) {
    in_a_child([] {
      const Call call({2, 2, nullptr});
      CHECK(nested_sum(20, 20) == plain_sum(20, 20));
      others_take_part();
    });
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
}

pid_t forked = -1;
bool forks() {
  if (forked < 0) forked = fork();
  return false;
}

void a_fork_in_the_middle_of_a_call() {
  bool ended = false;
  int64_t done = 0;
  try {
    const Call call({3, 3, &forks});
    std::atomic<int64_t> count{0};
    parallel_for(300, [&](int64_t) {
      sleep_ms(1);
      ++count;
    });
    done = count;
  } catch (const Interrupted&) {
    ended = true;
  }
  if (forked == 0) {
    alarm(20);
    CHECK(ended);
    const Call call({2, 2, nullptr});
    CHECK(nested_sum(20, 20) == plain_sum(20, 20));
    others_take_part();
    _exit(0);
  }
  CHECK(forked > 0 && !ended && done == 300);
  int status = 0;
  CHECK(waitpid(forked, &status, 0) == forked);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

const std::map<std::string, void (*)()> kTests = {
    {"many_small_regions", many_small_regions},
    {"deep_nesting", deep_nesting},
    {"others_take_part", others_take_part},
    {"limits_are_kept", limits_are_kept},
    {"errors_arrive", errors_arrive},
    {"a_call_is_interrupted", a_call_is_interrupted},
    {"children_have_threads_of_their_own", children_have_threads_of_their_own},
    {"a_fork_in_the_middle_of_a_call", a_fork_in_the_middle_of_a_call},
};

}  // namespace

int main(int, char** arguments) {
  kTests.at(arguments[1])();
  return 0;
}
