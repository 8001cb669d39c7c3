// What the tests of emulated CUDA share: streams, memory and events that give themselves back, and how a fault is
// expected.
#pragma once

#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

#include <cuda_runtime.h>
#include <catch2/catch.hpp>

#include <lockstep/core/base/cuda_check.h>
#include <lockstep/core/base/error.h>
#include <lockstep/kernels/cuda/emulation/emulation.h>

namespace lockstep::test {

struct TestStream {
  cudaStream_t handle = nullptr;
  explicit TestStream(int device = 0) {
    LOCKSTEP_CUDA_CHECK(cudaSetDevice(device));
    LOCKSTEP_CUDA_CHECK(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
  }
  ~TestStream() { cudaStreamDestroy(handle); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator cudaStream_t() const { return handle; }
  void synchronize() const { LOCKSTEP_CUDA_CHECK(cudaStreamSynchronize(handle)); }
};

struct TestEvent {
  cudaEvent_t handle = nullptr;
  TestEvent() { LOCKSTEP_CUDA_CHECK(cudaEventCreateWithFlags(&handle, cudaEventDefault)); }
  ~TestEvent() { cudaEventDestroy(handle); }
  TestEvent(const TestEvent&) = delete;
  TestEvent& operator=(const TestEvent&) = delete;
  operator cudaEvent_t() const { return handle; }
};

/// n elements of the current device, allocated for all streams.
template <class T>
struct Memory {
  T* data = nullptr;
  std::size_t n;
  explicit Memory(std::size_t count) : n(count) {
    LOCKSTEP_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T)));
  }
  Memory(const std::vector<T>& values, cudaStream_t stream) : Memory(values.size()) {
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(data, values.data(), n * sizeof(T), cudaMemcpyHostToDevice, stream));
  }
  ~Memory() {
    if (data) cudaFree(data);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  operator T*() const { return data; }

  std::vector<T> read(cudaStream_t stream) const {
    std::vector<T> values(n);
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(values.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost, stream));
    return values;
  }
};

template <class T>
struct Pinned {
  T* data = nullptr;
  explicit Pinned(std::size_t n) {
    LOCKSTEP_CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&data), n * sizeof(T)));
  }
  ~Pinned() { cudaFreeHost(data); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  operator T*() const { return data; }
};

/// The text of the DeviceError that `body` and a synchronisation make, "" if there is none. Errors are cleared.
template <class Body>
std::string fault_of(Body body) {
  std::string text;
  try {
    body();
    int current = 0, count = 0;
    LOCKSTEP_CUDA_CHECK(cudaGetDevice(&current));
    LOCKSTEP_CUDA_CHECK(cudaGetDeviceCount(&count));
    for (int device = 0; device < count; ++device) {
      LOCKSTEP_CUDA_CHECK(cudaSetDevice(device));
      LOCKSTEP_CUDA_CHECK(cudaDeviceSynchronize());
    }
    LOCKSTEP_CUDA_CHECK(cudaSetDevice(current));
  } catch (const DeviceError& error) {
    text = error.what();
  }
  emulation::reset();
  return text;
}

}  // namespace lockstep::test
