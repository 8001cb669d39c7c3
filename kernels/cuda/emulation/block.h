// Runs a launch: its blocks one after another in random order, the threads of a block on fibers, with barriers and warp
// functions, each access checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <lockstep/kernels/cuda/emulation/access.h>
#include <lockstep/kernels/cuda/emulation/device_functions.h>
#include <lockstep/kernels/cuda/emulation/emulator.h>
#include <lockstep/kernels/cuda/emulation/fiber.h>

namespace lockstep::emulation {

FiberPool& fibers();

/// One launch while it runs.
class Launch final : public Checker {
 public:
  Launch(History& history, std::string name, dim3 grid, dim3 block, std::size_t shared_size, Kernel kernel,
         std::uint64_t seed);

  /// Throws Fault.
  void run(const Clock& clock);

  // ---- What the running thread calls.
  void barrier(Site site);
  /// Waits for the lanes of `mask`, less those that have exited. The result is what lane `source` brought, or without a
  /// source (-1) which lanes brought other than 0.
  std::uint64_t warp_meet(unsigned mask, std::uint64_t value, int source, bool orders_memory, Site site);
  void fence() { fenced_ = true; }
  void acquire_through(const void* address);

  uint3 thread_index() const { return thread_index_; }
  uint3 block_index() const { return block_index_; }
  uint3 block_size() const { return {block_.x, block_.y, block_.z}; }
  uint3 grid_size() const { return {grid_.x, grid_.y, grid_.z}; }
  void keep(Fault fault) { fault_ = std::move(fault); }
  /// Ends the launch with the kept fault; the running thread never goes on.
  [[noreturn]] void stop() { fibers().abandon(fiber_); }
  int lane() const { return static_cast<int>(current_ % 32); }
  const std::string& name() const { return operation_; }

 private:
  enum class State : std::uint8_t { fresh, ready, at_barrier, in_warp, exited };
  struct Thread {
    State state = State::fresh;
    std::uint16_t epoch = 1;
    Fiber* fiber = nullptr;  // while it waits
    Site site{};             // where it waits; the rest is of the warp function it waits in
    unsigned mask = 0;
    bool orders_memory = false;
    int source = -1;
    std::uint64_t value = 0, result = 0;
  };

  std::string who() const override;
  std::string thread_name(unsigned thread) const override;
  bool is_private(std::uintptr_t address, std::size_t bytes, Access kind) const override;
  bool acquired(std::uint64_t interval) const override;
  const WarpClock* warp_clock(unsigned warp) const override { return &warp_clocks_[warp]; }

  void run_block(std::uint64_t block);
  static void run_threads(void* launch);
  bool take_fresh();
  void enter(unsigned thread);
  void wait();
  void release_barrier();
  bool finish_warp(unsigned first, unsigned mask, Site site);
  void order_lanes(unsigned first, unsigned lanes);
  void thread_exits();
  void begin_interval();
  [[noreturn]] void fail_deadlock();
  std::string whereabouts(unsigned thread) const;
  uint3 index_of(unsigned thread) const;

  dim3 grid_, block_;
  Kernel kernel_;
  std::uint64_t seed_;
  unsigned thread_count_;
  std::vector<Thread> threads_;
  std::vector<WarpClock> warp_clocks_;
  std::vector<unsigned> lanes_waiting_;  // per warp
  bool warp_clocks_used_ = true;
  std::vector<std::pair<unsigned, Fiber*>> ready_;

  // The order in which threads start.
  unsigned order_step_ = 1, order_next_ = 0, started_ = 0;
  bool backwards_ = false;  // the order in which they go on after a barrier
  unsigned at_barrier_ = 0, exited_ = 0;
  Site barrier_site_{};

  unsigned current_ = 0;
  Fiber* fiber_ = nullptr;
  uint3 thread_index_{}, block_index_{};
  std::optional<Fault> fault_;

  // Blocks that fenced and then updated an atomic, by its address: the later ones are after the earlier ones.
  bool fenced_ = false;
  std::unordered_map<const void*, std::vector<std::pair<std::uint64_t, std::uint64_t>>> releases_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> acquired_;
};

/// The launch whose thread runs now on the calling thread, or null in host code.
extern constinit thread_local Launch* running_launch;

}  // namespace lockstep::emulation
