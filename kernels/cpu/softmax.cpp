#include <lockstep/kernels/softmax.h>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/row_reduce.h>

namespace lockstep::kernels {
namespace {

template <class T>
LOCKSTEP_MULTIVERSION void softmax_rows(std::int64_t rows, std::int64_t n, const T* x, T* y) {
  for (std::int64_t row = 0; row < rows; ++row, x += n, y += n) {
    const T sum = row_exp(n, x, row_max(n, x), y);
    for (std::int64_t i = 0; i < n; ++i) y[i] /= sum;
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void softmax_backward_rows(std::int64_t rows, std::int64_t n, const T* y, const T* grad_y,
                                                 T* grad_x) {
  for (std::int64_t row = 0; row < rows; ++row, y += n, grad_y += n, grad_x += n) {
    const T dot = row_sum<T>(n, [=](std::int64_t i) { return grad_y[i] * y[i]; });
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) grad_x[i] = y[i] * (grad_y[i] - dot);
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void log_softmax_rows(std::int64_t rows, std::int64_t n, const T* x, T* y) {
  for (std::int64_t row = 0; row < rows; ++row, x += n, y += n) {
    const T max = row_max(n, x);
    const T log_sum = vector_log(row_exp_sum(n, x, max));
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - max) - log_sum;
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void log_softmax_backward_rows(std::int64_t rows, std::int64_t n, const T* y, const T* grad_y,
                                                     T* grad_x) {
  for (std::int64_t row = 0; row < rows; ++row, y += n, grad_y += n, grad_x += n) {
    const T sum = row_sum<T>(n, [=](std::int64_t i) { return grad_y[i]; });
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) grad_x[i] = grad_y[i] - vector_exp(y[i]) * sum;
  }
}

}  // namespace

template <class T>
void softmax_forward(Cpu, std::int64_t rows, std::int64_t n, const T* x, T* y) {
  parallel_for(rows, row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    softmax_rows(end - begin, n, x + begin * n, y + begin * n);
  });
}

template <class T>
void softmax_backward(Cpu, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x) {
  parallel_for(rows, row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    softmax_backward_rows(end - begin, n, y + begin * n, grad_y + begin * n, grad_x + begin * n);
  });
}

template <class T>
void log_softmax_forward(Cpu, std::int64_t rows, std::int64_t n, const T* x, T* y) {
  parallel_for(rows, row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    log_softmax_rows(end - begin, n, x + begin * n, y + begin * n);
  });
}

template <class T>
void log_softmax_backward(Cpu, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x) {
  parallel_for(rows, row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    log_softmax_backward_rows(end - begin, n, y + begin * n, grad_y + begin * n, grad_x + begin * n);
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                               \
  template void softmax_forward<T>(Cpu, std::int64_t, std::int64_t, const T*, T*);            \
  template void softmax_backward<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, T*); \
  template void log_softmax_forward<T>(Cpu, std::int64_t, std::int64_t, const T*, T*);        \
  template void log_softmax_backward<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
