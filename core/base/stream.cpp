#include <lockstep/core/base/stream.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/cuda_check.h>

namespace lockstep {
namespace {

constexpr int kMaxDevices = 64;

int checked_index(const char* op, Device device) {
  const int count = std::min(cuda_device_count(), kMaxDevices);
  LOCKSTEP_CHECK(device.type == Device::Type::cuda && device.index >= 0 && device.index < count, DeviceError, op,
                 "expected one of the {} CUDA devices that this build can use here, got {}", count, to_string(device));
  return device.index;
}

/// The names of the ops queued last on a device, in a ring.
struct Queued {
  static constexpr std::size_t kShown = 8;
  std::atomic<std::size_t> count{0};
  std::array<std::atomic<const char*>, kShown> ops{};

  std::string latest_first() const {
    std::string text;
    const std::size_t last = count.load(std::memory_order_relaxed);
    for (std::size_t i = last; i > 0 && last - i < kShown; --i) {
      text += fmt::format("{}{}", text.empty() ? "" : ", ", ops[(i - 1) % kShown].load(std::memory_order_relaxed));
    }
    return text.empty() ? "nothing" : text;
  }
};
std::array<Queued, kMaxDevices> g_queued;

thread_local std::array<std::optional<Stream>, kMaxDevices> t_streams;  // set by StreamGuard

/// The stream that threads share, one for each device. Never destroyed: static tensors may outlive any destructor of
/// ours.
Stream shared_stream(Device device) {
  struct Shared {
    std::mutex mutex;
    std::array<std::optional<Stream>, kMaxDevices> streams;
  };
  static Shared& shared = *new Shared;
  const std::lock_guard lock(shared.mutex);
  auto& stream = shared.streams[static_cast<std::size_t>(device.index)];
  if (!stream) stream.emplace(device);
  return *stream;
}

}  // namespace

struct Stream::Handle {
  Handle(Device device_, CudaStream stream_, bool owned_) : device(device_), stream(stream_), owned(owned_) {}
  ~Handle() {
    if (owned) LOCKSTEP_CUDA_WARN(cudaStreamDestroy(stream));
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  const Device device;
  const CudaStream stream;
  const bool owned;
};

Stream::Stream(Device device, int priority) {
  checked_index("Stream", device);
  const DeviceGuard guard(device);
  CudaStream stream = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority));
  handle_ = std::make_shared<const Handle>(device, stream, true);
}

Stream Stream::external(Device device, CudaStream handle) {
  checked_index("Stream", device);
  return Stream(std::make_shared<const Handle>(device, handle, false));
}

Device Stream::device() const { return handle_->device; }
CudaStream Stream::handle() const { return handle_->stream; }

void Stream::synchronize() const {
  const cudaError_t error = cudaStreamSynchronize(handle());
  LOCKSTEP_CHECK(error == cudaSuccess, DeviceError, "synchronize",
                 "expected the work on {} to succeed, got {} ({}); queued last: {}", to_string(device()),
                 cudaGetErrorName(error), cudaGetErrorString(error),
                 g_queued[static_cast<std::size_t>(device().index)].latest_first());
}

bool Stream::is_idle() const {
  const cudaError_t status = cudaStreamQuery(handle());
  if (status != cudaErrorNotReady) LOCKSTEP_CUDA_CHECK(status);
  return status == cudaSuccess;
}

struct Event::Handle {
  explicit Handle(Device device_) : device(device_) {
    const DeviceGuard guard(device);
    LOCKSTEP_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDefault));
  }
  ~Handle() { LOCKSTEP_CUDA_WARN(cudaEventDestroy(event)); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  const Device device;
  cudaEvent_t event = nullptr;
};

Event::Event(const Stream& stream) : handle_(std::make_shared<const Handle>(stream.device())) {
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(handle_->event, stream.handle()));
}

void Event::synchronize() const { LOCKSTEP_CUDA_CHECK(cudaEventSynchronize(handle_->event)); }

bool Event::is_done() const {
  const cudaError_t status = cudaEventQuery(handle_->event);
  if (status != cudaErrorNotReady) LOCKSTEP_CUDA_CHECK(status);
  return status == cudaSuccess;
}

double Event::milliseconds_since(const Event& start) const {
  float milliseconds = 0.0f;
  LOCKSTEP_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.handle_->event, handle_->event));
  return static_cast<double>(milliseconds);
}

void Stream::wait(const Event& event) const {
  LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(handle(), event.handle_->event, 0));
}

void detail::note_queued(Device device, const char* op) {
  static const bool wait = [] {
    const char* value = std::getenv("LOCKSTEP_CUDA_SYNC");
    return value && std::string_view(value) == "1";
  }();
  if (wait) lockstep::synchronize(device);
  Queued& queued = g_queued[static_cast<std::size_t>(device.index)];
  const std::size_t at = queued.count.fetch_add(1, std::memory_order_relaxed);
  queued.ops[at % Queued::kShown].store(op, std::memory_order_relaxed);
}

Stream current_stream(Device device) {
  const auto index = static_cast<std::size_t>(checked_index("current_stream", device));
  return t_streams[index] ? *t_streams[index] : shared_stream(device);
}

StreamGuard::StreamGuard(const Stream& stream) : device_(stream.device()) {
  auto& current = t_streams[static_cast<std::size_t>(device_.index)];
  previous_ = std::exchange(current, stream);
}
StreamGuard::~StreamGuard() { t_streams[static_cast<std::size_t>(device_.index)] = std::move(previous_); }

void synchronize(Device device) {
  if (device.type == Device::Type::cuda) current_stream(device).synchronize();
}

DeviceGuard::DeviceGuard(Device device) {
  if (device.type == Device::Type::cpu) return;
  LOCKSTEP_CUDA_CHECK(cudaGetDevice(&previous_));
  if (previous_ == device.index) {
    previous_ = -1;
  } else {
    LOCKSTEP_CUDA_CHECK(cudaSetDevice(device.index));
  }
}
DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) LOCKSTEP_CUDA_WARN(cudaSetDevice(previous_));
}

}  // namespace lockstep
