#include <lockstep/kernels/cuda/emulation/block.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/limits.h>

namespace lockstep::cuda {

// The memory that block_shared() hands out; one block runs at a time.
alignas(1024) unsigned char lockstep_block_shared[emulation::kSharedBytes];

}  // namespace lockstep::cuda

namespace lockstep::emulation {
namespace {

Region shared_region() {
  static std::vector<std::uint8_t>& status = *new std::vector<std::uint8_t>(kSharedBytes);
  static std::vector<Cell>& cells = *new std::vector<Cell>(kSharedBytes / kCellBytes);
  return {reinterpret_cast<std::uintptr_t>(cuda::lockstep_block_shared), kSharedBytes, status.data(), cells.data(),
          nullptr};
}

/// Steps through 0, 1, … n − 1 in another order.
std::uint64_t coprime_step(std::uint64_t n, std::uint64_t random) {
  if (random % 2 == 0) return 1;
  std::uint64_t step = random / 2 % n;
  while (std::gcd(step, n) != 1) ++step;
  return std::max<std::uint64_t>(step % n, 1);
}

std::string text(uint3 i) { return fmt::format("({}, {}, {})", i.x, i.y, i.z); }

std::string text(Site site) {
  const std::string_view file = site.file;
  return fmt::format("{} ({}:{})", site.name, file.substr(file.rfind('/') + 1), site.line);
}

}  // namespace

FiberPool& fibers() {
  static FiberPool& pool = *new FiberPool;
  return pool;
}

constinit thread_local Launch* running_launch = nullptr;

Launch::Launch(History& history, std::string name, dim3 grid, dim3 block, std::size_t shared_size, Kernel kernel,
               std::uint64_t seed)
    : Checker(history, std::move(name)),
      grid_(grid),
      block_(block),
      kernel_(std::move(kernel)),
      seed_(seed),
      thread_count_(block.x * block.y * block.z),
      threads_(thread_count_),
      warp_clocks_((thread_count_ + 31) / 32),
      lanes_waiting_(warp_clocks_.size()) {
  shared_memory = shared_region();
  shared_bytes = shared_size;
}

uint3 Launch::index_of(unsigned thread) const {
  return {thread % block_.x, thread / block_.x % block_.y, thread / block_.x / block_.y};
}
std::string Launch::thread_name(unsigned thread) const { return "thread " + text(index_of(thread)); }
std::string Launch::who() const {
  return fmt::format("{}, block {}, {},", operation_, text(block_index_), thread_name(current_));
}

void Launch::run(const Clock& clock) {
  begin(clock);
  const std::uint64_t blocks = std::uint64_t{grid_.x} * grid_.y * grid_.z;
  const std::uint64_t step = coprime_step(blocks, seed_);
  order_step_ = static_cast<unsigned>(coprime_step(thread_count_, seed_ >> 20));
  backwards_ = (seed_ >> 40) % 2 == 0;
  std::uint64_t block = seed_ % blocks;
  use_signal_stack();
  try {
    for (std::uint64_t i = 0; i < blocks; ++i) {
      run_block(block);
      block = block >= blocks - step ? block - (blocks - step) : block + step;
    }
  } catch (...) {
    std::memset(shared_memory.status, kNowhere, shared_bytes);
    throw;
  }
  std::memset(shared_memory.status, kNowhere, shared_bytes);
}

void Launch::run_block(std::uint64_t block) {
  block_index_ = {static_cast<unsigned>(block % grid_.x), static_cast<unsigned>(block / grid_.x % grid_.y),
                  static_cast<unsigned>(block / grid_.x / grid_.y)};
  std::memset(cuda::lockstep_block_shared, kPoison, shared_bytes);
  std::memset(shared_memory.status, kUninitialised, shared_bytes);
  std::memset(static_cast<void*>(shared_memory.cells), 0, (shared_bytes + kCellBytes - 1) / kCellBytes * sizeof(Cell));
  std::fill(threads_.begin(), threads_.end(), Thread{});
  order_next_ = static_cast<unsigned>((seed_ + block * 0x9e3779b97f4a7c15u) >> 32) % thread_count_;
  started_ = at_barrier_ = exited_ = 0;
  fenced_ = false;
  acquired_.clear();
  warp_clocks_used_ = true;
  begin_interval();
  block_start_ = record_of(history_.interval());

  while (exited_ < thread_count_) {
    if (!ready_.empty()) {
      const auto [thread, fiber] = ready_.back();
      ready_.pop_back();
      fiber_ = fiber;
      enter(thread);
    } else if (started_ < thread_count_) {
      fiber_ = fibers().take(&Launch::run_threads, this);
    } else {
      fail_deadlock();
    }
    running_launch = this;
    fibers().resume(fiber_);
    running_launch = nullptr;
    if (fault_) {
      fibers().reclaim(fiber_);
      for (const Thread& t : threads_) {
        if (t.fiber) fibers().reclaim(t.fiber);
      }
      ready_.clear();
      throw std::move(*fault_);
    }
  }
}

// Runs on a fiber: threads that have not started, until none is left.
void Launch::run_threads(void* argument) {
  auto& launch = *static_cast<Launch*>(argument);
  while (launch.take_fresh()) {
    launch.kernel_.invoke(launch.kernel_.function, launch.kernel_.arguments.get());
    launch.thread_exits();
  }
}

bool Launch::take_fresh() {
  if (started_ == thread_count_) return false;
  ++started_;
  enter(order_next_);
  order_next_ = order_next_ >= thread_count_ - order_step_ ? order_next_ - (thread_count_ - order_step_)
                                                           : order_next_ + order_step_;
  return true;
}

void Launch::enter(unsigned thread) {
  current_ = thread;
  Thread& t = threads_[thread];
  t.state = State::ready;
  t.fiber = nullptr;
  thread_index_ = block_.y == 1 && block_.z == 1 ? uint3{thread, 0, 0} : index_of(thread);
  now_ = record_of(history_.interval(), thread, t.epoch);
}

void Launch::wait() {
  threads_[current_].fiber = fiber_;
  fibers().suspend(fiber_);
}

void Launch::thread_exits() {
  threads_[current_].state = State::exited;
  ++exited_;
  if (lanes_waiting_[current_ / 32] == 0) return;
  // Lanes may have waited for this one alone.
  const unsigned first = current_ & ~31u;
  for (unsigned i = first; i < std::min(first + 32, thread_count_); ++i) {
    const Thread& t = threads_[i];
    if (t.state != State::in_warp || (t.mask >> (current_ - first) & 1) == 0) continue;
    try {
      finish_warp(first, t.mask, t.site);
    } catch (Fault& fault) {
      fault_ = std::move(fault);
    }
    break;
  }
  if (fault_) stop();
}

void Launch::begin_interval() {
  history_.next_interval();
  if (!std::exchange(warp_clocks_used_, false)) return;
  std::memset(static_cast<void*>(warp_clocks_.data()), 0, warp_clocks_.size() * sizeof(WarpClock));
  for (Thread& t : threads_) t.epoch = 1;
}

void Launch::barrier(Site site) {
  Thread& me = threads_[current_];
  if (at_barrier_ == 0) barrier_site_ = site;
  if (site != barrier_site_) {
    const auto other =
        std::find_if(threads_.begin(), threads_.end(), [](const Thread& t) { return t.state == State::at_barrier; });
    throw Fault{cudaErrorLaunchFailure,
                fmt::format("divergent barrier: {} waits at {} while {} waits at {}", who(), text(site),
                            thread_name(static_cast<unsigned>(other - threads_.begin())), text(barrier_site_))};
  }
  me.state = State::at_barrier;
  me.site = site;
  if (++at_barrier_ < thread_count_) return wait();
  at_barrier_ = 0;
  begin_interval();
  for (unsigned i = 0; i < thread_count_; ++i) {
    const unsigned thread = backwards_ ? i : thread_count_ - 1 - i;
    if (thread == current_) continue;
    threads_[thread].state = State::ready;
    ready_.emplace_back(thread, threads_[thread].fiber);
  }
  enter(current_);
}

std::uint64_t Launch::warp_meet(unsigned mask, std::uint64_t value, int source, bool orders_memory, Site site) {
  Thread& me = threads_[current_];
  const unsigned first = current_ & ~31u;
  if ((mask >> (current_ - first) & 1) == 0) {
    throw Fault{cudaErrorLaunchFailure,
                fmt::format("{} calls {} with mask {:#010x}, which does not name its own lane {}", who(), text(site),
                            mask, current_ - first)};
  }
  me.state = State::in_warp;
  me.mask = mask;
  me.value = value;
  me.source = source;
  me.orders_memory = orders_memory;
  me.site = site;
  ++lanes_waiting_[first / 32];
  if (finish_warp(first, mask, site)) {
    enter(current_);
  } else {
    wait();
  }
  return me.result;
}

/// Lets the lanes of `mask` go on if all of them that have not exited are there.
bool Launch::finish_warp(unsigned first, unsigned mask, Site site) {
  unsigned present = 0, nonzero = 0;
  for (unsigned i = 0; i < 32 && first + i < thread_count_; ++i) {
    const Thread& t = threads_[first + i];
    if ((mask >> i & 1) == 0 || t.state == State::exited) continue;
    if (t.state != State::in_warp) return false;
    if (t.mask != mask || t.site != site) {
      throw Fault{
          cudaErrorLaunchFailure,
          fmt::format("divergent warp: {} calls {} with mask {:#010x}, but {}, which it names, calls {} with mask "
                      "{:#010x}",
                      who(), text(site), mask, thread_name(first + i), text(t.site), t.mask)};
    }
    present |= 1u << i;
    nonzero |= static_cast<unsigned>(t.value != 0) << i;
  }
  for (unsigned i = 0; i < 32; ++i) {
    if ((present >> i & 1) == 0) continue;
    Thread& t = threads_[first + i];
    if (t.source >= 0 && (present >> (t.source & 31) & 1) == 0) {
      throw Fault{cudaErrorLaunchFailure,
                  fmt::format("{}, block {}, {}, reads lane {} by {} with mask {:#010x}, but that lane {}", operation_,
                              text(block_index_), thread_name(first + i), t.source & 31, text(site), mask,
                              (mask >> (t.source & 31) & 1) == 0 ? "is not in the mask" : "has exited or never was")};
    }
    t.result = t.source >= 0 ? threads_[first + static_cast<unsigned>(t.source & 31)].value : nonzero;
  }
  if (present != 0 && threads_[first + static_cast<unsigned>(__builtin_ctz(present))].orders_memory) {
    order_lanes(first, present);
  }
  lanes_waiting_[first / 32] -= static_cast<unsigned>(__builtin_popcount(present));
  for (unsigned i = 0; i < 32; ++i) {
    if ((present >> i & 1) == 0) continue;
    threads_[first + i].state = State::ready;
    if (first + i != current_) ready_.emplace_back(first + i, threads_[first + i].fiber);
  }
  return true;
}

/// A warp barrier: whatever one of the lanes knows or has done is before what any of them does from now on.
void Launch::order_lanes(unsigned first, unsigned lanes) {
  warp_clocks_used_ = true;
  auto& known = warp_clocks_[first / 32].known;
  std::uint16_t joined[32] = {};
  for (unsigned i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    for (unsigned j = 0; j < 32; ++j) joined[j] = std::max(joined[j], known[i][j]);
    joined[i] = std::max(joined[i], threads_[first + i].epoch);
  }
  for (unsigned i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    std::memcpy(known[i], joined, sizeof joined);
    if (threads_[first + i].epoch < kEpochLimit) ++threads_[first + i].epoch;
  }
}

std::string Launch::whereabouts(unsigned thread) const {
  const Thread& t = threads_[thread];
  return t.state == State::exited ? "has exited" : "waits at " + text(t.site);
}

void Launch::fail_deadlock() {
  // One that waits at a barrier, else in a warp function, and one that it waits for in vain.
  const auto waiting = [&](State state) {
    return std::find_if(threads_.begin(), threads_.end(), [&](const Thread& t) { return t.state == state; });
  };
  auto one = waiting(State::in_warp);
  const bool in_warp = one != threads_.end();
  if (!in_warp) one = waiting(State::at_barrier);
  const auto index = static_cast<unsigned>(one - threads_.begin());
  const auto other = std::find_if(threads_.begin(), threads_.end(), [&](const Thread& t) {
    const auto i = static_cast<unsigned>(&t - threads_.data());
    return in_warp ? i / 32 == index / 32 && (one->mask >> i % 32 & 1) != 0 && t.state == State::at_barrier
                   : t.state != State::at_barrier;
  });
  const auto other_index = static_cast<unsigned>(other - threads_.begin());
  std::string message =
      fmt::format("divergent {}: {}, block {}: {} waits at {}, but {} {}", in_warp ? "warp" : "barrier", operation_,
                  text(block_index_), thread_name(index), text(one->site), thread_name(other_index),
                  other == threads_.end() ? "never comes" : whereabouts(other_index));
  for (const Thread& t : threads_) {
    if (t.fiber) fibers().reclaim(t.fiber);
  }
  ready_.clear();
  throw Fault{cudaErrorLaunchFailure, std::move(message)};
}

bool Launch::is_private(std::uintptr_t address, std::size_t bytes, Access kind) const {
  if (address - reinterpret_cast<std::uintptr_t>(fiber_->stack) < FiberPool::kStackBytes) return true;
  if (kind != Access::read) return false;
  const auto arguments = reinterpret_cast<std::uintptr_t>(kernel_.arguments.get());
  return address - arguments < kernel_.argument_bytes || is_constant(address, bytes);
}

bool Launch::acquired(std::uint64_t interval) const {
  return std::any_of(acquired_.begin(), acquired_.end(),
                     [&](const auto& range) { return interval >= range.first && interval <= range.second; });
}

void Launch::acquire_through(const void* address) {
  if (!fenced_) return;
  auto& releases = releases_[address];
  acquired_.insert(acquired_.end(), releases.begin(), releases.end());
  releases.emplace_back(interval_of(block_start_), history_.interval());
}

}  // namespace lockstep::emulation
