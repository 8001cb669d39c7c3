// The library's own threads, and the one way to use them: parallel_for over a fixed partition.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace lockstep {

/// Threads that the calling thread's operations use, itself included. Default: the processors this process may run on,
/// at most the value of LOCKSTEP_NUM_THREADS if that is set.
int num_threads();

/// Sets it for the calling thread (a replica computes with its own number). Throws ValueError outside [1, 1024].
void set_num_threads(int threads);

namespace detail {
using ChunkFunction = void (*)(void* context, std::int64_t chunk);
void run_chunks(std::int64_t chunks, ChunkFunction function, void* context);
}  // namespace detail

/// Cuts [0, n) into at most num_threads() equal runs of at least `grain` elements and calls `body(begin, end)` once for
/// each, in parallel, the calling thread taking part. The cut depends on n, grain and num_threads() alone. Returns when
/// all are done; the first exception of a body is rethrown here. Inside a body it runs everything on that one thread.
template <class Body>
void parallel_for(std::int64_t n, std::int64_t grain, Body&& body) {
  if (n <= 0) return;
  const std::int64_t run = std::max<std::int64_t>(grain, 1);
  const std::int64_t chunks = n <= run ? 1 : std::min<std::int64_t>(num_threads(), (n - 1) / run + 1);
  if (chunks == 1) {
    body(std::int64_t{0}, n);
    return;
  }
  struct Context {
    std::remove_reference_t<Body>* body;
    std::int64_t n, chunks;
  } context{&body, n, chunks};
  detail::run_chunks(
      chunks,
      [](void* opaque, std::int64_t chunk) {
        const auto& c = *static_cast<Context*>(opaque);
        const std::int64_t base = c.n / c.chunks, extra = c.n % c.chunks;
        const std::int64_t begin = chunk * base + std::min(chunk, extra);
        (*c.body)(begin, begin + base + (chunk < extra ? 1 : 0));
      },
      &context);
}

}  // namespace lockstep
