// Threads that work together, again and again. Internal.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep::detail {

/// One thread for each rank of a group in this process; they live as long as the team, so that what a thread keeps
/// (caches, pools) serves the next call.
class Team {
 public:
  explicit Team(std::size_t threads);
  ~Team();

  /// Calls body(rank) on each thread and returns when all have ended. The first exception goes to `failed` at once, on
  /// its thread, so that others can be stopped, and is rethrown here.
  void run(const std::function<void(std::size_t rank)>& body,
           const std::function<void(const std::exception& error)>& failed);

 private:
  void work(std::size_t rank);
  void stop();

  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::uint64_t job_ = 0;
  std::size_t unfinished_ = 0;
  bool stopping_ = false;
  const std::function<void(std::size_t)>* body_ = nullptr;
  const std::function<void(const std::exception&)>* failed_ = nullptr;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

}  // namespace lockstep::detail
