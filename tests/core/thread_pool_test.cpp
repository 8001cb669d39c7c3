#include <lockstep/core/base/thread_pool.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>

using namespace lockstep;

namespace {

/// Sets the calling thread's number of threads for one test.
class ThreadsGuard {
 public:
  explicit ThreadsGuard(int threads) : before_(num_threads()) { set_num_threads(threads); }
  ~ThreadsGuard() { set_num_threads(before_); }

 private:
  int before_;
};

using Runs = std::vector<std::pair<std::int64_t, std::int64_t>>;

Runs runs_of(std::int64_t n, std::int64_t grain) {
  std::mutex mutex;
  Runs runs;
  parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
    std::lock_guard lock(mutex);
    runs.emplace_back(begin, end);
  });
  std::sort(runs.begin(), runs.end());
  return runs;
}

TEST_CASE("parallel_for covers every element once, in equal runs") {
  for (const int threads : {1, 2, 3, 4, 7}) {
    const ThreadsGuard guard(threads);
    for (const std::int64_t n : {1, 2, 3, 7, 64, 65, 1000}) {
      for (const std::int64_t grain : {0, 1, 3, 64, 5000}) {
        CAPTURE(threads, n, grain);
        const Runs runs = runs_of(n, grain);
        std::int64_t at = 0, shortest = n, longest = 0;
        for (const auto& [begin, end] : runs) {
          CHECK(begin == at);
          at = end;
          shortest = std::min(shortest, end - begin);
          longest = std::max(longest, end - begin);
        }
        CHECK(at == n);
        CHECK(longest - shortest <= 1);
        CHECK(runs.size() <= static_cast<std::size_t>(threads));
        if (n <= grain) CHECK(runs.size() == 1);
        if (grain <= 1 && n >= threads) CHECK(runs.size() == static_cast<std::size_t>(threads));
        CHECK(runs_of(n, grain) == runs);  // the cut is a function of its arguments
      }
    }
  }
}

TEST_CASE("parallel_for over nothing calls nothing") {
  int calls = 0;
  parallel_for(0, 1, [&](std::int64_t, std::int64_t) { ++calls; });
  parallel_for(-5, 1, [&](std::int64_t, std::int64_t) { ++calls; });
  CHECK(calls == 0);
}

TEST_CASE("Several threads take part") {
  const ThreadsGuard guard(3);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::atomic<int> arrived{0};
  parallel_for(3, 1, [&](std::int64_t, std::int64_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();  // so that no thread can take two
    std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  CHECK(ids.size() == 3);
  CHECK(ids.count(std::this_thread::get_id()) == 1);
}

TEST_CASE("An exception in a body comes out, and the pool lives on") {
  const ThreadsGuard guard(4);
  for (int round = 0; round < 50; ++round) {
    const std::int64_t thrower = round % 4;
    std::atomic<int> others{0};
    try {
      parallel_for(4, 1, [&](std::int64_t begin, std::int64_t) {
        if (begin == thrower) throw std::runtime_error("chunk " + std::to_string(begin));
        ++others;
      });
      FAIL("expected an exception");
    } catch (const std::runtime_error& error) {
      CHECK(error.what() == "chunk " + std::to_string(thrower));
    }
    CHECK(others == 3);
    CHECK(runs_of(100, 1).size() == 4);
  }
}

TEST_CASE("If every body throws, one exception comes out") {
  const ThreadsGuard guard(4);
  CHECK_THROWS_AS(parallel_for(4, 1, [](std::int64_t, std::int64_t) { throw std::logic_error("all"); }),
                  std::logic_error);
  CHECK(runs_of(100, 1).size() == 4);
}

TEST_CASE("A nested parallel_for stays on its thread and cuts as the caller would") {
  const ThreadsGuard guard(3);
  std::mutex mutex;
  std::vector<Runs> inner_runs;
  std::atomic<bool> other_thread{false};
  std::atomic<int> arrived{0};
  parallel_for(3, 1, [&](std::int64_t, std::int64_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();  // so that each thread has one
    const auto id = std::this_thread::get_id();
    Runs runs;
    parallel_for(10, 1, [&](std::int64_t begin, std::int64_t end) {
      if (std::this_thread::get_id() != id) other_thread = true;
      runs.emplace_back(begin, end);
    });
    std::lock_guard lock(mutex);
    inner_runs.push_back(runs);
  });
  CHECK_FALSE(other_thread);
  REQUIRE(inner_runs.size() == 3);
  for (const Runs& runs : inner_runs) CHECK(runs == Runs{{0, 4}, {4, 7}, {7, 10}});
}

TEST_CASE("An exception passes through nested regions") {
  const ThreadsGuard guard(2);
  CHECK_THROWS_WITH(parallel_for(2, 1,
                                 [](std::int64_t, std::int64_t) {
                                   parallel_for(2, 1,
                                                [](std::int64_t, std::int64_t) { throw std::runtime_error("inner"); });
                                 }),
                    "inner");
  CHECK(runs_of(100, 1).size() == 2);
}

TEST_CASE("Several callers at once all get their work done") {
  constexpr int kCallers = 4, kRounds = 300;
  constexpr std::int64_t kElements = 1000;
  std::vector<std::int64_t> sums(kCallers, 0);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&sums, caller] {
      set_num_threads(1 + caller);
      std::vector<std::int64_t> values(kElements);
      for (int round = 0; round < kRounds; ++round) {
        parallel_for(kElements, 10, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) values[static_cast<std::size_t>(i)] = i + round;
        });
        sums[static_cast<std::size_t>(caller)] += std::accumulate(values.begin(), values.end(), std::int64_t{0});
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const std::int64_t expected =
      kRounds * kElements * (kElements - 1) / 2 + kElements * std::int64_t{kRounds} * (kRounds - 1) / 2;
  for (const std::int64_t sum : sums) CHECK(sum == expected);
}

TEST_CASE("The number of threads belongs to the calling thread") {
  const ThreadsGuard guard(5);
  int seen_before = 0, seen_after = 0;
  std::thread([&] {
    seen_before = num_threads();
    set_num_threads(2);
    seen_after = num_threads();
  }).join();
  CHECK(seen_before >= 1);
  CHECK(seen_after == 2);
  CHECK(num_threads() == 5);
  CHECK_THROWS_AS(set_num_threads(0), ValueError);
  CHECK_THROWS_AS(set_num_threads(-1), ValueError);
  CHECK_THROWS_AS(set_num_threads(1025), ValueError);
  CHECK(num_threads() == 5);
}

TEST_CASE("Ten thousand small regions") {
  const ThreadsGuard guard(2);
  std::int64_t total = 0;
  for (int region = 0; region < 10000; ++region) {
    std::int64_t halves[2] = {0, 0};
    parallel_for(2, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) halves[i] = region + i;
    });
    total += halves[0] + halves[1];
  }
  CHECK(total == 10000 * std::int64_t{9999} + 10000);
}

}  // namespace
