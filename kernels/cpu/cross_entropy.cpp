#include <lockstep/kernels/cross_entropy.h>

#include <algorithm>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/row_reduce.h>

// −log_softmax(x)_c is computed as (max − x_c) + log Σ e^(x − max): exact where logits are huge.

namespace lockstep::kernels {
namespace {

template <class T>
LOCKSTEP_MULTIVERSION void index_forward_rows(std::int64_t begin, std::int64_t end, std::int64_t classes,
                                              const T* logits, const std::int64_t* target, std::int64_t ignore_index,
                                              T smoothing, T* loss) {
  for (std::int64_t row = begin; row < end; ++row) {
    if (target[row] == ignore_index) {
      loss[row] = 0;
      continue;
    }
    const T* x = logits + row * classes;
    const T max = row_max(classes, x);
    const T log_sum = vector_log(row_exp_sum(classes, x, max));
    T value = (max - x[target[row]]) + log_sum;
    if (smoothing != 0) {
      const T all = row_sum<T>(classes, [=](std::int64_t c) { return (max - x[c]) + log_sum; });
      value = (1 - smoothing) * value + smoothing / static_cast<T>(classes) * all;
    }
    loss[row] = value;
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void index_backward_rows(std::int64_t begin, std::int64_t end, std::int64_t classes,
                                               const T* logits, const std::int64_t* target, std::int64_t ignore_index,
                                               T smoothing, const T* grad_loss, T* grad_logits) {
  const T everywhere = smoothing / static_cast<T>(classes);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = logits + row * classes;
    T* grad = grad_logits + row * classes;
    if (target[row] == ignore_index) {
      std::fill_n(grad, classes, T(0));
      continue;
    }
    const T sum = row_exp(classes, x, row_max(classes, x), grad);
    const T g = grad_loss[row];
    const T at_target = grad[target[row]] / sum - everywhere - (1 - smoothing);
    for (std::int64_t c = 0; c < classes; ++c) grad[c] = g * (grad[c] / sum - everywhere);
    grad[target[row]] = g * at_target;
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void probability_forward_rows(std::int64_t begin, std::int64_t end, std::int64_t classes,
                                                    const T* logits, const T* target, T smoothing, T* loss) {
  const T everywhere = smoothing / static_cast<T>(classes);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = logits + row * classes;
    const T* t = target + row * classes;
    const T max = row_max(classes, x);
    const T log_sum = vector_log(row_exp_sum(classes, x, max));
    loss[row] = row_sum<T>(classes, [=](std::int64_t c) {
      const T weight = (1 - smoothing) * t[c] + everywhere;
      const T term = weight * ((max - x[c]) + log_sum);
      return weight == 0 && x[c] < max ? T(0) : term;
    });
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void probability_backward_rows(std::int64_t begin, std::int64_t end, std::int64_t classes,
                                                     const T* logits, const T* target, T smoothing, const T* grad_loss,
                                                     T* grad_logits) {
  const T everywhere = smoothing / static_cast<T>(classes);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = logits + row * classes;
    const T* t = target + row * classes;
    T* grad = grad_logits + row * classes;
    const T sum = row_exp(classes, x, row_max(classes, x), grad);
    const T mass = row_sum<T>(classes, [=](std::int64_t c) { return (1 - smoothing) * t[c] + everywhere; });
    const T g = grad_loss[row];
#pragma GCC ivdep
    for (std::int64_t c = 0; c < classes; ++c) {
      grad[c] = g * (grad[c] / sum * mass - ((1 - smoothing) * t[c] + everywhere));
    }
  }
}

}  // namespace

template <class T>
void cross_entropy_forward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                           std::int64_t ignore_index, T smoothing, T* loss) {
  parallel_for(rows, row_grain(classes), [=](std::int64_t begin, std::int64_t end) {
    index_forward_rows(begin, end, classes, logits, target, ignore_index, smoothing, loss);
  });
}

template <class T>
void cross_entropy_backward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                            std::int64_t ignore_index, T smoothing, const T* grad_loss, T* grad_logits) {
  parallel_for(rows, row_grain(classes), [=](std::int64_t begin, std::int64_t end) {
    index_backward_rows(begin, end, classes, logits, target, ignore_index, smoothing, grad_loss, grad_logits);
  });
}

template <class T>
void cross_entropy_inverse_count(Cpu, std::int64_t rows, const std::int64_t* target, std::int64_t ignore_index,
                                 T* out) {
  const auto counted = rows - std::count(target, target + rows, ignore_index);
  *out = static_cast<T>(1.0 / static_cast<double>(counted));
}

template <class T>
void cross_entropy_probabilities_forward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits, const T* target,
                                         T smoothing, T* loss) {
  parallel_for(rows, row_grain(classes), [=](std::int64_t begin, std::int64_t end) {
    probability_forward_rows(begin, end, classes, logits, target, smoothing, loss);
  });
}

template <class T>
void cross_entropy_probabilities_backward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits,
                                          const T* target, T smoothing, const T* grad_loss, T* grad_logits) {
  parallel_for(rows, row_grain(classes), [=](std::int64_t begin, std::int64_t end) {
    probability_backward_rows(begin, end, classes, logits, target, smoothing, grad_loss, grad_logits);
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                        \
  template void cross_entropy_forward<T>(Cpu, std::int64_t, std::int64_t, const T*, const std::int64_t*, std::int64_t, \
                                         T, T*);                                                                       \
  template void cross_entropy_backward<T>(Cpu, std::int64_t, std::int64_t, const T*, const std::int64_t*,              \
                                          std::int64_t, T, const T*, T*);                                              \
  template void cross_entropy_inverse_count<T>(Cpu, std::int64_t, const std::int64_t*, std::int64_t, T*);              \
  template void cross_entropy_probabilities_forward<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, T, T*);    \
  template void cross_entropy_probabilities_backward<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, T,        \
                                                        const T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
