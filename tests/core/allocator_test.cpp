#include <lockstep/core/allocator.h>

#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>

using namespace lockstep;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaches = false;         // blocks go back to the system at once there, so that use after free shows
constexpr bool kSystemRefuses = false;  // the sanitizer's own allocator ends the program instead
#elif defined(__SANITIZE_THREAD__)
constexpr bool kCaches = true;
constexpr bool kSystemRefuses = false;
#else
constexpr bool kCaches = true;
constexpr bool kSystemRefuses = true;
#endif

TEST_CASE("Blocks are aligned to 64 bytes and usable to their end") {
  std::vector<std::pair<void*, std::size_t>> blocks;
  for (std::size_t bytes = 1; bytes < 5'000'000; bytes += 1 + bytes / 3) {
    void* block = allocate(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(block) % 64 == 0);
    std::memset(block, static_cast<int>(bytes & 0xff), bytes);
    blocks.emplace_back(block, bytes);
  }
  for (const auto& [block, bytes] : blocks) {  // nobody has written into a neighbour
    const auto* p = static_cast<const unsigned char*>(block);
    CHECK(std::all_of(p, p + bytes,
                      [&, value = static_cast<unsigned char>(bytes & 0xff)](unsigned char c) { return c == value; }));
    deallocate(block, bytes);
  }
}

TEST_CASE("Nothing is null and costs nothing") {
  const MemoryStats before = memory_stats();
  CHECK(allocate(0) == nullptr);
  deallocate(nullptr, 0);
  CHECK(memory_stats().live == before.live);
}

TEST_CASE("A freed block serves the next request of about its size") {
  constexpr std::size_t kBytes = 3'000'000;
  deallocate(allocate(kBytes), kBytes);
  const MemoryStats before = memory_stats();
  for (int i = 0; i < 100; ++i) deallocate(allocate(kBytes - 1000), kBytes - 1000);
  const MemoryStats after = memory_stats();
  CHECK(after.live == before.live);
  if (kCaches) {
    CHECK(after.system_allocations == before.system_allocations);
    CHECK(after.cached == before.cached);
  }
}

TEST_CASE("At most an eighth of a block is wasted") {
  for (const std::size_t bytes : {1025u, 1153u, 5000u, 65537u, 1'000'001u, 3'000'000u}) {
    const std::int64_t before = memory_stats().live;
    void* block = allocate(bytes);
    const std::int64_t used = memory_stats().live - before;
    CHECK(used >= static_cast<std::int64_t>(bytes));
    CHECK(used <= static_cast<std::int64_t>(bytes + bytes / 8));
    deallocate(block, bytes);
    CHECK(memory_stats().live == before);
  }
}

TEST_CASE("Statistics count live, peak and cached bytes") {
  empty_cache();
  CHECK(memory_stats().cached == 0);
  reset_peak_memory();
  const MemoryStats before = memory_stats();
  CHECK(before.peak == before.live);
  constexpr std::int64_t kMiB = 1 << 20;
  void* a = allocate(kMiB);
  void* b = allocate(2 * kMiB);
  CHECK(memory_stats().live == before.live + 3 * kMiB);
  deallocate(b, 2 * kMiB);
  CHECK(memory_stats().live == before.live + kMiB);
  CHECK(memory_stats().peak == before.live + 3 * kMiB);
  CHECK(memory_stats().cached == (kCaches ? 2 * kMiB : 0));
  CHECK(memory_stats().system_allocations == before.system_allocations + 2);
  const MemoryStats now = memory_stats();
  const auto mib = [](std::int64_t bytes) { return static_cast<double>(bytes) / kMiB; };
  CHECK(
      memory_summary() ==
      fmt::format("live {:.1f} MiB, peak {:.1f} MiB, cached {:.1f} MiB, small blocks {:.1f} MiB, {} system allocations",
                  mib(now.live), mib(now.peak), mib(now.cached), mib(now.small), now.system_allocations));
  deallocate(allocate(kMiB), kMiB);
  CHECK(memory_stats().peak == before.live + 3 * kMiB);  // less than that again does not lower it
  deallocate(a, kMiB);
  empty_cache();
  CHECK(memory_stats().cached == 0);
  reset_peak_memory();
  CHECK(memory_stats().peak == before.live);
}

TEST_CASE("A size that no machine has is an OutOfMemoryError and changes nothing") {
  const MemoryStats before = memory_stats();
  for (const std::size_t bytes :
       {std::size_t{1} << 50, std::size_t{1} << 62, std::numeric_limits<std::size_t>::max()}) {
    CAPTURE(bytes);
    CHECK_THROWS_AS(allocate(bytes), OutOfMemoryError);
    CHECK_THROWS_WITH(allocate(bytes), Catch::Contains("[allocate]") && Catch::Contains(std::to_string(bytes)));
  }
  CHECK(memory_stats().live == before.live);
  CHECK(memory_stats().peak == before.peak);
}

TEST_CASE("When the system refuses, cached blocks are given up first, then an OutOfMemoryError says what is in use") {
  if (!kSystemRefuses) return;
  constexpr std::size_t kBlock = std::size_t{256} << 20;
  deallocate(allocate(kBlock), kBlock);
  REQUIRE(memory_stats().cached >= static_cast<std::int64_t>(kBlock));
  rlimit limit{};
  REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
  const std::int64_t live = memory_stats().live;
  rlimit tight = limit;
  tight.rlim_cur = 1;  // no mapping can be added
  REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  std::string message;
  try {
    deallocate(allocate(4 * kBlock), 4 * kBlock);
  } catch (const OutOfMemoryError& error) {
    message = error.what();
  }
  REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
  CHECK_THAT(message, Catch::Contains(std::to_string(4 * kBlock)) && Catch::Contains("in use: live"));
  CHECK(memory_stats().cached == 0);
  CHECK(memory_stats().live == live);
}

TEST_CASE("Many threads allocate and free at once") {
  const std::int64_t live = memory_stats().live;
  std::vector<std::thread> threads;
  std::vector<int> errors(8, 0);
  for (std::size_t t = 0; t < errors.size(); ++t) {
    threads.emplace_back([&errors, t] {
      std::vector<std::pair<unsigned char*, std::size_t>> held;
      std::uint32_t state = static_cast<std::uint32_t>(t) * 2654435761u + 1;
      for (int i = 0; i < 3000; ++i) {
        state = state * 1664525u + 1013904223u;
        if (held.size() < 20 && (state >> 16) % 3 != 0) {
          const std::size_t bytes = 1 + (state >> 8) % 4000;
          auto* block = static_cast<unsigned char*>(allocate(bytes));
          block[0] = block[bytes - 1] = static_cast<unsigned char>(t);
          held.emplace_back(block, bytes);
        } else if (!held.empty()) {
          const auto [block, bytes] = held.back();
          held.pop_back();
          errors[t] += block[0] != t || block[bytes - 1] != t;
          deallocate(block, bytes);
        }
      }
      for (const auto& [block, bytes] : held) deallocate(block, bytes);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : errors) CHECK(count == 0);
  CHECK(memory_stats().live == live);
}

/// Hands blocks from one thread to another, a few at a time.
class Channel {
 public:
  void put(void* block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return blocks_.size() < 32; });
    blocks_.push_back(block);
    changed_.notify_all();
  }
  void* take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !blocks_.empty(); });
    void* block = blocks_.back();
    blocks_.pop_back();
    changed_.notify_all();
    return block;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<void*> blocks_;
};

TEST_CASE("Blocks made on one thread and freed on another come back: a loader's workers do that for hours") {
  constexpr int kBlocks = 40000;
  for (const std::size_t bytes : {64u, 1000u, 5000u}) {
    const auto pass = [bytes] {
      Channel channel;
      std::thread producer([&] {
        for (int i = 0; i < kBlocks; ++i) channel.put(allocate(bytes));
      });
      for (int i = 0; i < kBlocks; ++i) deallocate(channel.take(), bytes);
      producer.join();
    };
    pass();
    const MemoryStats before = memory_stats();
    CAPTURE(bytes, before.small);
    CHECK(before.small < (8 << 20));  // 40,000 blocks of 1,000 bytes are 40 MB
    pass();
    const MemoryStats after = memory_stats();
    CHECK(after.live == before.live);
    CHECK(after.small <= before.small + (1 << 20));
    CHECK(after.cached <= before.cached + (1 << 20));
  }
}

TEST_CASE("Threads that end leave their free blocks to the others") {
  const auto use_some = [] {
    std::vector<void*> blocks;
    for (int i = 0; i < 200; ++i) blocks.push_back(allocate(200));
    for (void* block : blocks) deallocate(block, 200);
  };
  std::thread(use_some).join();
  const std::int64_t before = memory_stats().small;
  for (int i = 0; i < 50; ++i) std::thread(use_some).join();
  CHECK(memory_stats().small == before);
}

}  // namespace
