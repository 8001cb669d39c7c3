// The adapter to oneDNN. Internal: the only header that includes it.
//
// oneDNN is never allowed to thread: its OpenMP workers would spin beside our own. Kernels cut the work themselves and
// run each part as a single-threaded primitive, inside a SingleThread scope, on a thread of our pool.
#pragma once

#include <omp.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <oneapi/dnnl/dnnl.hpp>

#if DNNL_VERSION_MAJOR != 2 || DNNL_VERSION_MINOR < 6
#error "Lockstep is written for oneDNN 2.6 or a later 2.x (Debian 12: libdnnl-dev); version 3 has another API"
#endif

namespace lockstep::kernels::onednn {

/// While it lives, oneDNN creates and runs primitives for one thread on the calling thread.
class SingleThread {
 public:
  SingleThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~SingleThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  SingleThread(const SingleThread&) = delete;
  SingleThread& operator=(const SingleThread&) = delete;

 private:
  int before_;
};

const dnnl::engine& engine();

/// One argument of a primitive: a DNNL_ARG_… index and where its memory lies.
struct Argument {
  int index;
  const dnnl::memory::desc& desc;
  const void* data;
};

/// Runs a primitive on the calling thread. Needs a SingleThread scope. Throws Error naming `op` if oneDNN refuses.
void execute(const char* op, const dnnl::primitive& primitive, std::initializer_list<Argument> arguments);

/// C = op(A)·op(B) + beta·C, row-major, as in kernels/gemm.h, on the calling thread. Needs a SingleThread scope.
void sgemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
           std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);

}  // namespace lockstep::kernels::onednn
