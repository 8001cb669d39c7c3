#include <lockstep/core/base/thread_pool.h>

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <lockstep/core/base/check.h>

namespace lockstep {
namespace {

int default_num_threads() {
  cpu_set_t set;
  int processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  if (const char* text = std::getenv("LOCKSTEP_NUM_THREADS")) {
    const int asked = std::atoi(text);
    if (asked >= 1) processors = std::min(processors, asked);
  }
  return processors;
}

thread_local int t_num_threads = 0;
thread_local bool t_inside_chunk = false;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Workers that wait for one job at a time. A waiting worker spins for some ten microseconds, about the gap between two
/// kernels of one step, and then sleeps. A job ends when its chunks are done: a worker that the system has not
/// scheduled in time is not waited for.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard lock(sleep_mutex_);
      stop_.store(true, std::memory_order_relaxed);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  /// False when another thread is using the workers; the caller then does the work alone.
  bool try_run(std::int64_t chunks, detail::ChunkFunction function, void* context) {
    std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy) return false;
    while (static_cast<std::int64_t>(workers_.size()) < chunks - 1) workers_.emplace_back([this] { work(); });
    function_ = function;
    context_ = context;
    chunks_ = chunks;
    threads_ = t_num_threads;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    unfinished_.store(chunks, std::memory_order_relaxed);
    {
      std::lock_guard lock(sleep_mutex_);
      const std::uint64_t job = (state_.load(std::memory_order_relaxed) >> kCountBits) + 1;
      state_.store(job << kCountBits | static_cast<std::uint64_t>(chunks - 1), std::memory_order_release);
    }
    const std::int64_t helpers = std::min<std::int64_t>(chunks - 1, sleepers_.load(std::memory_order_acquire));
    for (std::int64_t i = 0; i < helpers; ++i) wake_.notify_one();
    run_chunk(0);  // not up for taking: the caller always takes part
    take_chunks();
    for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
      if (spins < kSpins) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

 private:
  static constexpr int kSpins = 2000;
  static constexpr int kCountBits = 16;

  bool has_chunks() const {
    return (state_.load(std::memory_order_acquire) & ((std::uint64_t{1} << kCountBits) - 1)) != 0;
  }

  void run_chunk(std::int64_t chunk) {
    t_inside_chunk = true;
    t_num_threads = threads_;
    try {
      function_(context_, chunk);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
    t_inside_chunk = false;
    unfinished_.fetch_sub(1, std::memory_order_release);
  }

  void take_chunks() {
    std::uint64_t state = state_.load(std::memory_order_acquire);
    while (const auto left = static_cast<std::int64_t>(state & ((std::uint64_t{1} << kCountBits) - 1))) {
      if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      // The job cannot end before this chunk has, so its description stays as it is while it is read here.
      run_chunk(chunks_ - left);
      state = state_.load(std::memory_order_acquire);
    }
  }

  void work() {
    while (!stop_.load(std::memory_order_relaxed)) {
      for (int spins = 0; spins < kSpins && !has_chunks(); ++spins) pause();
      if (!has_chunks()) {
        std::unique_lock lock(sleep_mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return has_chunks() || stop_.load(std::memory_order_relaxed); });
        sleepers_.fetch_sub(1);
      }
      take_chunks();
    }
  }

  std::mutex busy_, sleep_mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  // Number of the job, and below it how many of its chunks nobody has taken yet: one word, so that a late worker cannot
  // take a chunk of one job for a chunk of another.
  std::atomic<std::uint64_t> state_{0};
  std::atomic<std::int64_t> unfinished_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> failed_{false}, stop_{false};
  detail::ChunkFunction function_ = nullptr;
  void* context_ = nullptr;
  std::int64_t chunks_ = 0;
  int threads_ = 0;
  std::exception_ptr error_;
};

Pool& pool() {
  static Pool instance;
  return instance;
}

}  // namespace

int num_threads() {
  if (t_num_threads == 0) [[unlikely]] {
    static const int threads = default_num_threads();
    t_num_threads = threads;
  }
  return t_num_threads;
}

void set_num_threads(int threads) {
  LOCKSTEP_CHECK(threads >= 1 && threads <= 1024, ValueError, "set_num_threads", "expected 1 to 1024 threads, got {}",
                 threads);
  t_num_threads = threads;
}

void detail::run_chunks(std::int64_t chunks, ChunkFunction function, void* context) {
  if (!t_inside_chunk && pool().try_run(chunks, function, context)) return;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) function(context, chunk);
}

}  // namespace lockstep
