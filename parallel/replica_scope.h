// What the bits of a replica depend on besides its images. Internal.
#pragma once

#include <cstdint>

#include <lockstep/core/base/philox.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor.h>
#include <lockstep/parallel/replica_tree.h>

namespace lockstep::detail {

/// While it lives, the thread's default generator is that of a replica in a step, a function of (seed, step, replica),
/// and it computes with `threads` threads.
class ReplicaScope {
 public:
  ReplicaScope(std::uint64_t seed, std::uint64_t step, std::int64_t replica, int threads)
      : generator_before_(default_generator()), threads_before_(num_threads()) {
    const auto bits = philox4x32(seed, static_cast<std::uint64_t>(replica), 0x7265706c69636173);  // "replicas"
    default_generator() = {std::uint64_t{bits[0]} << 32 | bits[1], step << kDrawBits};
    set_num_threads(threads);
  }
  ~ReplicaScope() {
    default_generator() = generator_before_;
    set_num_threads(threads_before_);
  }
  ReplicaScope(const ReplicaScope&) = delete;
  ReplicaScope& operator=(const ReplicaScope&) = delete;

 private:
  static constexpr int kDrawBits = 24;  // calls of random ops in a step before they meet those of the next

  Generator generator_before_;
  int threads_before_;
};

/// Rows of x on a device, in memory aligned like that of a tensor of their own, so that no kernel treats them
/// otherwise.
inline Tensor rows_on(const Tensor& x, Run rows, Device device) {
  constexpr std::uintptr_t kAlignment = 64;
  const Tensor part = narrow(x.detach(), 0, rows.begin, rows.size()).to(device);
  return reinterpret_cast<std::uintptr_t>(part.data_ptr()) % kAlignment == 0 ? part : part.clone();
}

}  // namespace lockstep::detail
