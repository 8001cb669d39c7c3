// What tests may ask of emulated CUDA beyond the runtime's API: what was launched, and how it schedules. Exists in
// LOCKSTEP_CUDA=EMULATED builds only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <lockstep/core/base/cuda.h>

namespace lockstep::emulation {

/// Sums over the launches of one kernel since clear_kernel_log(). Bytes are those of device memory, not shared memory.
struct KernelStats {
  std::int64_t launches = 0;
  std::int64_t threads = 0;
  std::int64_t bytes_read = 0;
  std::int64_t bytes_written = 0;
  std::int64_t distinct_bytes_read = 0;     ///< each byte once per launch; only while counting is on
  std::int64_t distinct_bytes_written = 0;  ///< likewise
  bool forwarded = false;                   ///< ran as ordinary host code, by run_on_stream
};

/// By demangled name, template arguments included. Kernels count when they have run: synchronise first.
std::map<std::string, KernelStats> kernel_log();
void clear_kernel_log();
/// Whether launches count distinct bytes (slower); off at first.
void count_distinct_bytes(bool on);

/// Starts the draws anew: the order of streams, blocks and threads. At first from LOCKSTEP_EMULATION_SEED, else 0.
void set_seed(std::uint64_t seed);
/// Bytes of device memory from now on; at first 8 GiB per device.
void set_memory_limit(int device, std::size_t bytes);
/// Drops all queued work and every device's error; memory, streams and events stay.
void reset();

/// A part of device memory.
struct Range {
  const void* data;
  std::size_t bytes;
};

/// Queues host code that stands in for a library's kernel `name` on a stream of the current device: it runs in the
/// stream's order, and may then touch device memory. `reads` must be initialised, `writes` are initialised afterwards;
/// both are checked like the accesses of a kernel. An exception of `body` becomes an error of the device.
void run_on_stream(const char* name, CudaStream stream, std::vector<Range> reads, std::vector<Range> writes,
                   std::function<void()> body);

}  // namespace lockstep::emulation
