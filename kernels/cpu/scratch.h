// Working memory for kernels: kept by each thread from call to call, so that a steady state allocates nothing.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::kernels {

/// `count` elements of T with arbitrary contents, valid until this thread's next scratch() of the same T and slot.
/// Buffers in use at the same time need different slots; T may turn out to be double.
template <class T, int slot>
T* scratch(std::int64_t count) {
  thread_local std::vector<T> buffer;
  if (static_cast<std::int64_t>(buffer.size()) < count) buffer.resize(static_cast<std::size_t>(count));
  return buffer.data();
}

}  // namespace lockstep::kernels
