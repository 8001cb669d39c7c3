#include <lockstep/core/base/thread_pool.h>

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
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
/// kernels of one step, and then sleeps.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard lock(sleep_mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  /// False when another thread is using the workers; the caller then does the work alone.
  bool try_run(std::int64_t chunks, detail::ChunkFunction function, void* context) {
    std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy) return false;
    while (static_cast<std::int64_t>(workers_.size()) < chunks - 1) {
      workers_.emplace_back([this, seen = generation_.load(std::memory_order_relaxed)] { work(seen); });
    }
    function_ = function;
    context_ = context;
    chunks_ = chunks;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard lock(sleep_mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    take_chunks();
    for (int spins = 0; running_.load(std::memory_order_acquire) > 0; ++spins) {
      if (spins < kSpins) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  static constexpr int kSpins = 2000;

  void take_chunks() {
    t_inside_chunk = true;
    for (std::int64_t chunk; (chunk = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_;) {
      try {
        function_(context_, chunk);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
    }
    t_inside_chunk = false;
  }

  void work(std::uint64_t seen) {
    for (;;) {
      for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) pause();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(sleep_mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        sleepers_.fetch_sub(1);
      }
      // A new generation only starts after every worker has finished the one before, so none is ever missed.
      ++seen;
      if (stop_) return;
      take_chunks();
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex busy_, sleep_mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> sleepers_{0}, running_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> failed_{false};
  bool stop_ = false;
  detail::ChunkFunction function_ = nullptr;
  void* context_ = nullptr;
  std::int64_t chunks_ = 0;
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
