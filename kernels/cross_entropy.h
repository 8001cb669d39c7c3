// Cross-entropy of logits [rows, classes] against class indices or probabilities, softmax included. T is float or
// double on the CPU, float, float16 or bfloat16 on CUDA. With smoothing s the target distribution is (1 − s) · target +
// s / classes, as in PyTorch. Nothing is kept from forward to backward: the backward needs the exponentials anyway, and
// a stored log-sum-exp would lose the low bits of large logits.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep::kernels {

/// loss[row] = −Σ_c target_c · log_softmax(logits)_c; 0 where target[row] == ignore_index.
/// Targets must lie in [0, classes) or equal ignore_index. On the CPU the caller has checked; on CUDA, where a check
/// would have to wait for the queue, another target makes the loss of its row NaN, and its row of the gradient too.
template <class T>
void cross_entropy_forward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                           std::int64_t ignore_index, T smoothing, T* loss);
template <class T>
void cross_entropy_forward(CudaStream, std::int64_t rows, std::int64_t classes, const T* logits,
                           const std::int64_t* target, std::int64_t ignore_index, Compute<T> smoothing,
                           Compute<T>* loss);

/// 1 / the number of rows whose target is not ignore_index.
template <class T>
void cross_entropy_inverse_count(Cpu, std::int64_t rows, const std::int64_t* target, std::int64_t ignore_index, T* out);
template <class T>
void cross_entropy_inverse_count(CudaStream, std::int64_t rows, const std::int64_t* target, std::int64_t ignore_index,
                                 T* out);

/// grad_logits[row] = grad_loss[row] · (softmax(logits) − smoothed target); 0 for ignored rows. grad_logits may be
/// logits.
template <class T>
void cross_entropy_backward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                            std::int64_t ignore_index, T smoothing, const T* grad_loss, T* grad_logits);
template <class T>
void cross_entropy_backward(CudaStream, std::int64_t rows, std::int64_t classes, const T* logits,
                            const std::int64_t* target, std::int64_t ignore_index, Compute<T> smoothing,
                            const Compute<T>* grad_loss, T* grad_logits);

/// The same with a probability for each class, target [rows, classes]. A class of probability 0 adds nothing, even
/// where its logit is −inf.
template <class T>
void cross_entropy_probabilities_forward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits, const T* target,
                                         T smoothing, T* loss);
template <class T>
void cross_entropy_probabilities_forward(CudaStream, std::int64_t rows, std::int64_t classes, const T* logits,
                                         const T* target, Compute<T> smoothing, Compute<T>* loss);
/// Gradient for the logits only: targets are data. They need not sum to 1: grad_logits = grad_loss · (softmax · Σ
/// target − target). grad_logits may be logits.
template <class T>
void cross_entropy_probabilities_backward(Cpu, std::int64_t rows, std::int64_t classes, const T* logits,
                                          const T* target, T smoothing, const T* grad_loss, T* grad_logits);
template <class T>
void cross_entropy_probabilities_backward(CudaStream, std::int64_t rows, std::int64_t classes, const T* logits,
                                          const T* target, Compute<T> smoothing, const Compute<T>* grad_loss,
                                          T* grad_logits);

}  // namespace lockstep::kernels
