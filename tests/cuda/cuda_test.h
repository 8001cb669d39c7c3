// What the CUDA kernel tests share: skipping without a device, buffers on the device, and comparison with the CPU's
// kernels in double.
#pragma once

#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <utility>
#include <vector>

#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/stream.h>
#include <lockstep/core/cuda_memory.h>
#include <lockstep/tests/kernels/kernel_test.h>

namespace lockstep::testing {

inline constexpr Device kCuda{Device::Type::cuda, 0};

/// Whether there is a CUDA device to test on. Counts the cases that had none and prints the number at the end.
inline bool have_cuda() {
  static struct Skipped {
    int cases = 0;
    ~Skipped() {
      if (cases > 0) std::printf("cases skipped without a CUDA device: %d\n", cases);
    }
  } skipped;
  if (cuda_device_count() > 0) return true;
  ++skipped.cases;
  return false;
}

/// The stream that the tests launch on.
inline CudaStream cuda_stream() { return current_stream(kCuda).handle(); }

/// Elements on device 0, starting `offset` elements behind a place aligned to 256 bytes and ending where the memory
/// ends. Contents undefined unless given.
template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::int64_t n, std::int64_t offset = 0) : n_(n), offset_(offset) {
    const DeviceGuard guard(kCuda);
    block_ = static_cast<T*>(detail::cuda_allocate(bytes(), current_stream(kCuda)));
  }
  explicit DeviceBuffer(const std::vector<T>& values, std::int64_t offset = 0)
      : DeviceBuffer(static_cast<std::int64_t>(values.size()), offset) {
    upload(values);
  }
  ~DeviceBuffer() {
    if (block_) detail::cuda_deallocate(block_, bytes(), current_stream(kCuda));
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : n_(other.n_), offset_(other.offset_), block_(std::exchange(other.block_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;

  T* data() const { return block_ ? block_ + offset_ : nullptr; }
  std::int64_t size() const { return n_; }

  void upload(const std::vector<T>& values) const {
    detail::copy_bytes(values.size() * sizeof(T), values.data(), kCpu, data(), kCuda);
    synchronize(kCuda);
  }
  std::vector<T> download() const {
    std::vector<T> values(static_cast<std::size_t>(n_));
    detail::copy_bytes(values.size() * sizeof(T), data(), kCuda, values.data(), kCpu);
    synchronize(kCuda);
    return values;
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(n_ + offset_) * sizeof(T); }

  std::int64_t n_, offset_;
  T* block_ = nullptr;
};

/// Values converted element by element: to double for the reference, from double by way of float for 16-bit types.
template <class To, class From>
std::vector<To> converted(const std::vector<From>& values) {
  std::vector<To> out;
  out.reserve(values.size());
  for (const From& value : values) {
    if constexpr (std::is_same_v<To, From>) {
      out.push_back(value);
    } else if constexpr (sizeof(From) == 2) {
      out.push_back(static_cast<To>(static_cast<float>(value)));
    } else if constexpr (sizeof(To) == 2) {
      out.push_back(To(static_cast<float>(value)));
    } else {
      out.push_back(static_cast<To>(value));
    }
  }
  return out;
}

/// n values of T in [low, high): random_values rounded to T.
template <class T>
std::vector<T> random_elements(std::int64_t n, double low = -1, double high = 1, std::uint64_t stream = 0) {
  return converted<T>(random_values<float>(n, low, high, stream));
}

/// Half the distance from 1 to the next number of T: what one rounding to T may cost, relatively.
template <class T>
inline constexpr double kHalfUlp = 0x1p-24;
template <>
inline constexpr double kHalfUlp<float16> = 0x1p-11;
template <>
inline constexpr double kHalfUlp<bfloat16> = 0x1p-8;

/// What a result of T may differ from the exact one, relatively: the rounding to T at the end and `steps` roundings of
/// the float arithmetic before.
template <class T>
constexpr double error_bound(double steps) {
  return (sizeof(T) == 2 ? kHalfUlp<T> : 0.0) + steps * 0x1p-24;
}

/// Like close() for values of T against doubles.
template <class T>
bool close_to(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance) {
  return close(converted<double>(actual), expected, tolerance);
}

}  // namespace lockstep::testing
