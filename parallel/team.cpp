#include <lockstep/parallel/team.h>

#include <utility>

namespace lockstep::detail {

Team::Team(std::size_t threads) {
  try {
    for (std::size_t rank = 0; rank < threads; ++rank) threads_.emplace_back([this, rank] { work(rank); });
  } catch (...) {
    stop();
    throw;
  }
}

Team::~Team() { stop(); }

void Team::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(std::size_t)>& body, const std::function<void(const std::exception&)>& failed) {
  std::unique_lock lock(mutex_);
  body_ = &body;
  failed_ = &failed;
  unfinished_ = threads_.size();
  ++job_;
  start_.notify_all();
  done_.wait(lock, [&] { return unfinished_ == 0; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::work(std::size_t rank) {
  std::unique_lock lock(mutex_);
  for (std::uint64_t seen = 0;;) {
    start_.wait(lock, [&] { return stopping_ || job_ != seen; });
    if (stopping_) return;
    seen = job_;
    lock.unlock();
    try {
      (*body_)(rank);
    } catch (const std::exception& caught) {
      lock.lock();
      const bool first = !error_;
      if (first) error_ = std::current_exception();
      lock.unlock();
      if (first) (*failed_)(caught);
    }
    lock.lock();
    if (--unfinished_ == 0) done_.notify_all();
  }
}

}  // namespace lockstep::detail
