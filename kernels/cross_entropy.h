// Cross-entropy of logits [rows, classes] against class indices or probabilities, softmax included. T is float or double.
// With smoothing s the target distribution is (1 − s) · target + s / classes, as in PyTorch.
#pragma once

#include <cstdint>

namespace lockstep::cpu {

/// loss[row] = −Σ_c target_c · log_softmax(logits)_c; 0 where target[row] == ignore_index. log_sum_exp[row] is kept for backward.
/// Targets must lie in [0, classes) or equal ignore_index: the caller has checked.
template <class T>
void cross_entropy_forward(std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                           std::int64_t ignore_index, T smoothing, T* loss, T* log_sum_exp);

/// grad_logits[row] = grad_loss[row] · (softmax(logits) − smoothed target); 0 for ignored rows.
template <class T>
void cross_entropy_backward(std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                            std::int64_t ignore_index, T smoothing, const T* log_sum_exp, const T* grad_loss,
                            T* grad_logits);

/// The same with a probability for each class, target [rows, classes].
template <class T>
void cross_entropy_probabilities_forward(std::int64_t rows, std::int64_t classes, const T* logits, const T* target,
                                         T smoothing, T* loss, T* log_sum_exp);
/// Gradient for the logits only: targets are data.
template <class T>
void cross_entropy_probabilities_backward(std::int64_t rows, std::int64_t classes, const T* logits, const T* target,
                                          T smoothing, const T* log_sum_exp, const T* grad_loss, T* grad_logits);

}  // namespace lockstep::cpu
