// The runtime API: launches of kernels; the log of launches; emulation.h.
#include <map>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/block.h>
#include <lockstep/kernels/cuda/emulation/limits.h>
#include <lockstep/kernels/cuda/emulation/runtime.h>

namespace lockstep::emulation {
namespace {

/// Shared memory that kernels may have beyond the first 48 KB, by function.
std::map<const void*, std::size_t>& shared_limits() {
  static auto& limits = *new std::map<const void*, std::size_t>;
  return limits;
}

void require_launchable(const cudaLaunchConfig_t& config, const void* function) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const auto fail = [](cudaError_t code, std::string message) { throw Fault{code, std::move(message)}; };
  const unsigned grid_sizes[] = {grid.x, grid.y, grid.z}, block_sizes[] = {block.x, block.y, block.z};
  for (int i = 0; i < 3; ++i) {
    if (grid_sizes[i] == 0 || grid_sizes[i] > kGridSize[i]) {
      fail(cudaErrorInvalidConfiguration,
           fmt::format("the grid's size along {} is {}, not 1 to {}", "xyz"[i], grid_sizes[i], kGridSize[i]));
    }
    if (block_sizes[i] == 0 || block_sizes[i] > kBlockSize[i]) {
      fail(cudaErrorInvalidConfiguration,
           fmt::format("the block's size along {} is {}, not 1 to {}", "xyz"[i], block_sizes[i], kBlockSize[i]));
    }
  }
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads > kThreadsPerBlock) {
    fail(cudaErrorInvalidConfiguration, fmt::format("{} threads per block, more than {}", threads, kThreadsPerBlock));
  }
  const auto raised = shared_limits().find(function);
  const std::size_t limit = raised == shared_limits().end() ? kSharedBytesWithoutAttribute : raised->second;
  if (config.dynamicSmemBytes > limit) {
    fail(cudaErrorInvalidValue,
         fmt::format("{} bytes of shared memory per block, more than {}", config.dynamicSmemBytes, limit));
  }
}

/// The operation's record in the log, and the checker's region and peers; the arenas are opened.
void prepare(Emulator& e, Checker& checker, DeviceState& device) {
  checker.device_memory = region_of(device);
  device.arena.open();
  for (const int peer : device.peers) {
    checker.peers.push_back(region_of(e.device(peer)));
    e.device(peer).arena.open();
  }
}

void log(KernelStats& stats, const Checker& checker, const DistinctBytes& distinct) {
  stats.bytes_read += checker.bytes_read();
  stats.bytes_written += checker.bytes_written();
  stats.distinct_bytes_read += distinct.read_count;
  stats.distinct_bytes_written += distinct.written_count;
}

void run_kernel(Emulator& e, const Operation& o, DeviceState& device, const cudaLaunchConfig_t& config,
                const Kernel& kernel, const std::string& name) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  Launch launch(e.history, o.name, grid, block, config.dynamicSmemBytes, kernel, e.random());
  prepare(e, launch, device);
  DistinctBytes distinct;
  if (e.counts_distinct) launch.distinct = &distinct;
  KernelStats& stats = e.kernels[name];
  ++stats.launches;
  stats.threads += static_cast<std::int64_t>(std::uint64_t{grid.x} * grid.y * grid.z * block.x * block.y * block.z);
  launch.run(o.clock);
  log(stats, launch, distinct);
}

}  // namespace

cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, Kernel kernel) {
  return api([&](Emulator& e, Lock&) {
    const auto stream = stream_of(e, config.stream);
    if (stream->device != current_device()) {
      return set_error(cudaErrorInvalidResourceHandle, fmt::format("a launch on {} while the current device is cuda:{}",
                                                                   Emulator::name_of(*stream), current_device()));
    }
    require_launchable(config, kernel.function);
    const std::string name = kernel_name(kernel.function);
    e.enqueue(*stream, "kernel " + name,
              [&e, &device = e.device(stream->device), config, kernel = std::move(kernel), name](const Operation& o) {
                run_kernel(e, o, device, config, kernel, name);
              });
    return cudaSuccess;
  });
}

void run_on_stream(const char* name, CudaStream handle, std::vector<Range> reads, std::vector<Range> writes,
                   std::function<void()> body) {
  const cudaError_t error = api([&](Emulator& e, Lock&) {
    const auto stream = stream_of(e, handle);
    DeviceState& device = e.device(stream->device);
    e.enqueue(*stream, std::string("forwarded kernel ") + name,
              [&e, &device, name, reads = std::move(reads), writes = std::move(writes),
               body = std::move(body)](const Operation& o) {
                Checker checker(e.history, o.name);
                checker.begin(o.clock);
                prepare(e, checker, device);
                DistinctBytes distinct;
                if (e.counts_distinct) checker.distinct = &distinct;
                for (const Range& r : reads) checker.check_range(r.data, r.bytes, Access::read, true);
                for (const Range& w : writes) checker.check_range(w.data, w.bytes, Access::write, false);
                try {
                  body();
                } catch (const std::exception& exception) {
                  throw Fault{cudaErrorLaunchFailure, fmt::format("{}: {}", o.name, exception.what())};
                }
                KernelStats& stats = e.kernels[name];
                stats.forwarded = true;
                ++stats.launches;
                log(stats, checker, distinct);
              });
    return cudaSuccess;
  });
  LOCKSTEP_CHECK(error == cudaSuccess, DeviceError, "run_on_stream", "expected {} to be queued, got {}", name,
                 cudaGetErrorString(error));
}

std::map<std::string, KernelStats> kernel_log() {
  Lock lock(Emulator::get().mutex);
  return Emulator::get().kernels;
}

void clear_kernel_log() {
  Lock lock(Emulator::get().mutex);
  Emulator::get().kernels.clear();
}

void count_distinct_bytes(bool on) {
  Lock lock(Emulator::get().mutex);
  Emulator::get().counts_distinct = on;
}

void set_seed(std::uint64_t seed) {
  Lock lock(Emulator::get().mutex);
  Emulator::get().random.seed(seed);
}

void set_memory_limit(int device, std::size_t bytes) {
  Lock lock(Emulator::get().mutex);
  Emulator::get().device(device).arena.set_limit(bytes);
}

void reset() {
  Emulator& e = Emulator::get();
  Lock lock(e.mutex);
  e.drop_queued_work(lock);
  for (const auto& device : e.devices) device->fault.reset();
}

}  // namespace lockstep::emulation

using namespace lockstep::emulation;

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  return api([&](Emulator&, Lock&) {
    if (value < 0 || static_cast<std::size_t>(value) > kSharedBytes) {
      return set_error(cudaErrorInvalidValue,
                       fmt::format("{} bytes of shared memory per block, more than {}", value, kSharedBytes));
    }
    shared_limits()[kernel] = static_cast<std::size_t>(value);
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  *name = mangled_name(kernel);
  return *name ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads,
                                                          std::size_t shared_bytes) {
  const int by_threads = kThreadsPerMultiprocessor / threads;
  const int by_memory = shared_bytes == 0 ? by_threads : static_cast<int>(kSharedBytes / shared_bytes);
  *blocks = std::min({by_threads, by_memory, 32});
  return cudaSuccess;
}
