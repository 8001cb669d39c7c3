// The state of emulated CUDA: devices, streams with their queued operations, events. One lock guards it all; queued
// work runs under it, on the thread that needs the work done.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <lockstep/kernels/cuda/emulation/emulation.h>
#include <lockstep/kernels/cuda/emulation/fault.h>
#include <lockstep/kernels/cuda/emulation/history.h>
#include <lockstep/kernels/cuda/emulation/memory.h>

namespace lockstep::emulation {

struct Stream;

struct DeviceState {
  explicit DeviceState(int device_index) : index(device_index), arena(device_index) {}

  int index;
  Arena arena;
  std::optional<Fault> fault;  ///< what the device answers until reset()
  std::set<int> peers;         ///< devices whose memory its kernels may access
  std::uint64_t release_threshold = 0;
};

/// One cudaEventRecord.
struct EventRecord {
  Clock clock;  ///< of the stream, when the record was queued
  std::weak_ptr<Stream> stream;
  bool done = false;
  std::chrono::steady_clock::time_point time;
};

struct Event {
  int device;
  unsigned flags;
  std::shared_ptr<EventRecord> record;  ///< the latest; null before the first
};

struct Operation {
  std::string name;      ///< "kernel add_kernel<float> on stream 2 of cuda:0"
  std::uint64_t number;  ///< in its stream
  Clock clock;           ///< what it comes after, itself included
  std::function<void(const Operation&)> run;
  std::shared_ptr<EventRecord> waits_for;
  bool always_runs = false;    ///< even when the device has a fault: frees and event records
  bool runs_unlocked = false;  ///< a host function, which may take locks of its own
};

struct Stream {
  int device;
  std::size_t number;  ///< in clocks
  int id;              ///< in messages
  int priority;
  Clock clock;
  std::deque<Operation> queue;
  std::uint64_t count = 0;  ///< operations queued so far
  bool busy = false;        ///< an unlocked operation of it is running
  bool destroyed = false;

  /// Whether one of the `first` operations has not run yet.
  bool has_pending(std::uint64_t first) const { return busy || (!queue.empty() && queue.front().number <= first); }
};

using Lock = std::unique_lock<std::mutex>;

class Emulator {
 public:
  static Emulator& get();

  /// Appends to `stream`, after what the host has waited for.
  Operation& enqueue(Stream& stream, const std::string& name, std::function<void(const Operation&)> run);
  /// A number in the stream's order for something done at once.
  std::uint64_t take_number(Stream& stream);
  /// Runs work until all that is queued on `stream` now is done, and lets the host know of it.
  void finish(Lock& lock, const std::shared_ptr<Stream>& stream);
  void finish_device(Lock& lock, int device);
  void finish_event(Lock& lock, const std::shared_ptr<EventRecord>& record);
  /// Runs one operation that `stream` needs, for a query.
  void progress(Lock& lock, const std::shared_ptr<Stream>& stream);
  void drop_queued_work(Lock& lock);

  /// The live stream of this handle, or null.
  std::shared_ptr<Stream> find(cudaStream_t handle);
  Event* find(cudaEvent_t handle);
  std::shared_ptr<Stream> make_stream(int device, int priority);
  /// "stream 2 of cuda:0".
  static std::string name_of(const Stream& stream);

  DeviceState& device(int index) { return *devices[static_cast<std::size_t>(index)]; }
  /// The device whose arena holds `pointer`, or null.
  DeviceState* device_of(const void* pointer);
  std::uint64_t draw(std::uint64_t below) { return random() % below; }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::unique_ptr<DeviceState>> devices;
  std::vector<std::shared_ptr<Stream>> streams;  ///< destroyed ones too, until their work is done
  std::map<cudaEvent_t, std::unique_ptr<Event>> events;
  History history;
  Clock host;  ///< what the host's threads have waited for, taken together
  std::mt19937_64 random;
  std::map<std::string, KernelStats> kernels;
  bool counts_distinct = false;

 private:
  Emulator();
  void step(Lock& lock, std::shared_ptr<Stream> stream);
  void run_first(Lock& lock, const std::shared_ptr<Stream>& stream);
  void close_arenas();
  void forget_past();
  static bool is_blocked(const Stream& stream);

  std::vector<std::size_t> free_numbers_;
  std::size_t number_count_ = 0;
  int stream_count_ = 0;
};

/// The calling thread's current device.
int& current_device();

/// What an address outside the accessible memory is: another device's, pinned, the program's own.
std::string describe_address(const void* pointer);

/// Whether these bytes are constants of the program.
bool is_constant(std::uintptr_t address, std::size_t bytes);

/// Catches the host's accesses to device memory: says what was touched, then lets the program end. Called again and
/// again, since test frameworks put signal handlers of their own in place.
void watch_host_accesses();
/// Gives the calling thread a stack for signal handlers, for faults on a fiber whose stack is full.
void use_signal_stack();

/// Mangled, or null where the program has no symbol of that function.
const char* mangled_name(const void* function);
/// Demangled, with template arguments and without parameters.
std::string kernel_name(const void* function);

}  // namespace lockstep::emulation
