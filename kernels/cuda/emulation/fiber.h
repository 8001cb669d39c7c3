// Fibers for the threads of a block: stacks and switches. A fiber runs one kernel thread after another until one of
// them has to wait, so a kernel without barriers needs a single one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include <boost/context/detail/fcontext.hpp>

namespace lockstep::emulation {

struct Fiber {
  std::byte* stack;  ///< lowest address
  boost::context::detail::fcontext_t context;
};

/// One fiber runs at a time, and gives control back to whoever resumed it. Used under the emulator's lock.
class FiberPool {
 public:
  static constexpr std::size_t kStackBytes = std::size_t{128} << 10;

  /// A fiber that will call `work(argument)` when resumed, and come back to the pool when that returns.
  Fiber* take(void (*work)(void*), void* argument);
  /// Runs a fiber until it calls suspend() or abandon(), or its work returns.
  void resume(Fiber* fiber);
  /// Called on a fiber: control goes back to resume().
  void suspend(Fiber* fiber);
  /// As suspend, for good: its stack is used again without unwinding it.
  [[noreturn]] void abandon(Fiber* fiber);
  /// Makes a suspended fiber that nobody will resume free for other work.
  void reclaim(Fiber* fiber);

 private:
  static void main(boost::context::detail::transfer_t transfer);
  void start(Fiber* fiber);

  std::deque<Fiber> fibers_;
  std::vector<Fiber*> idle_;
  void (*work_)(void*) = nullptr;
  void* argument_ = nullptr;
  // Where resume() was called.
  boost::context::detail::fcontext_t resumer_ = nullptr;
  const void* resumer_stack_ = nullptr;
  std::size_t resumer_stack_bytes_ = 0;
};

}  // namespace lockstep::emulation
