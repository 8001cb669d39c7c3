// What the library-backed kernels share: plans made once for each key, and memory of a stream for the time of a call.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string_view>
#include <type_traits>
#include <unordered_map>

#include <cuda_runtime.h>

#include <lockstep/core/base/cuda.h>
#include <lockstep/core/base/cuda_check.h>

namespace lockstep::cuda {

/// The device that this thread's CUDA calls go to.
inline int current_device() {
  int device = 0;
  LOCKSTEP_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

/// Plans by key, for any threads; while one makes a plan that is missing, the others wait.
template <class Key, class Plan>
class PlanCache {
  static_assert(std::has_unique_object_representations_v<Key>, "keys are hashed by their bytes");

 public:
  template <class Make>
  std::shared_ptr<Plan> find_or_make(const Key& key, Make&& make) {
    {
      const std::shared_lock lock(mutex_);
      if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    }
    const std::unique_lock lock(mutex_);
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    return plans_.emplace(key, make(key)).first->second;
  }

 private:
  struct Hash {
    std::size_t operator()(const Key& key) const {
      return std::hash<std::string_view>{}({reinterpret_cast<const char*>(&key), sizeof key});
    }
  };

  std::shared_mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<Plan>, Hash> plans_;
};

/// Bytes from the pool of the current device, free again behind what is queued in `stream` when this ends.
class StreamMemory {
 public:
  StreamMemory(CudaStream stream, std::size_t bytes) : stream_(stream) {
    if (bytes > 0) LOCKSTEP_CUDA_CHECK(cudaMallocAsync(&data_, bytes, stream));
  }
  ~StreamMemory() {
    if (data_) LOCKSTEP_CUDA_WARN(cudaFreeAsync(data_, stream_));
  }
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;

  void* data() const { return data_; }

 private:
  CudaStream stream_;
  void* data_ = nullptr;
};

}  // namespace lockstep::cuda
