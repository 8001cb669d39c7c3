// Streams, events and the current device of CUDA, as values that release what they own and guards that restore what
// they change. On a build without CUDA, or a machine without a driver, making one is a DeviceError.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <lockstep/core/base/device.h>

namespace lockstep {

class Event;

/// A queue of work on one CUDA device, run in order (cudaStream_t). Copies are handles to the same stream.
class Stream {
 public:
  /// A new stream on `device`; work of a lower `priority` number goes first where the device is full
  /// (cudaStreamCreateWithPriority: the number is cut to the range that the device has). Throws DeviceError unless
  /// `device` is a CUDA device of this machine.
  explicit Stream(Device device, int priority = 0);
  /// Someone else's stream on `device`, which must outlive its uses here and is not destroyed.
  static Stream external(Device device, CudaStream handle);

  Device device() const;                ///< the device that it works on
  CudaStream handle() const;            ///< for CUDA calls and kernels of one's own
  void wait(const Event& event) const;  ///< later work here starts after what `event` marks
  /// Returns when all work queued so far is done. Throws DeviceError if some of it failed, naming the ops queued last.
  void synchronize() const;
  /// Whether all work queued so far is done.
  bool is_idle() const;

  /// The same stream.
  friend bool operator==(const Stream& a, const Stream& b) { return a.handle() == b.handle(); }

 private:
  struct Handle;
  explicit Stream(std::shared_ptr<const Handle> handle) : handle_(std::move(handle)) {}

  std::shared_ptr<const Handle> handle_;
};

/// A mark in a stream's queue (cudaEvent_t), to wait for or to take the time between two.
class Event {
 public:
  /// Marks the work queued in `stream` so far. Throws DeviceError as Stream does.
  explicit Event(const Stream& stream);

  void synchronize() const;  ///< returns when that work is done; throws DeviceError if it failed
  bool is_done() const;      ///< whether it is done
  /// Milliseconds from when the device passed `start` to when it passed this; both must be done (DeviceError).
  double milliseconds_since(const Event& start) const;

 private:
  friend class Stream;
  struct Handle;

  std::shared_ptr<const Handle> handle_;
};

/// The stream of `device` that ops on this thread use: that of the innermost StreamGuard, else one that all threads of
/// the process share for that device. Throws DeviceError unless `device` is a CUDA device of this machine.
Stream current_stream(Device device);

/// While it lives, ops of this thread on the stream's device use `stream` (torch.cuda.stream). Work on other streams
/// is not waited for: use events, and Tensor::record_stream for tensors that cross.
class StreamGuard {
 public:
  /// current_stream(stream.device()) is `stream` from here on; the destructor restores it.
  explicit StreamGuard(const Stream& stream);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  Device device_;
  std::optional<Stream> previous_;
};

/// Returns when all work on `device` that this thread's current stream holds is done, at once for the CPU. Throws
/// DeviceError as Stream::synchronize does.
void synchronize(Device device);

/// While it lives, `device` is the one that this thread's CUDA calls go to (cudaSetDevice); nothing for the CPU.
class DeviceGuard {
 public:
  /// Calls go to `device` from here on; the destructor restores what was. Throws DeviceError if there is no such
  /// device.
  explicit DeviceGuard(Device device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

namespace detail {

/// Remembers the name of an op (a string literal) whose kernels are about to be queued on `device`, for the message of
/// an error that shows later. With LOCKSTEP_CUDA_SYNC=1 in the environment first waits for the op before it, so that
/// the error of an op shows when the next one starts.
void note_queued(Device device, const char* op);

}  // namespace detail
}  // namespace lockstep
