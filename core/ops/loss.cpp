// Cross-entropy.
#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/cross_entropy.h>

namespace lockstep {
namespace {

constexpr const char* kOp = "cross_entropy";

void check_indices(const Tensor& target, std::int64_t classes, std::int64_t ignore_index) {
  const auto* t = target.data<std::int64_t>();
  for (std::int64_t row = 0; row < target.numel(); ++row) {
    LOCKSTEP_CHECK((t[row] >= 0 && t[row] < classes) || t[row] == ignore_index, ValueError, kOp,
                   "expected targets from 0 to {} or ignore_index {}, got {} in row {}", classes - 1, ignore_index,
                   t[row], row);
  }
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options) {
  require_defined(kOp, logits, "logits [N, classes]");
  require_defined(kOp, target, "a target");
  LOCKSTEP_CHECK(logits.rank() == 2 && logits.size(1) >= 1, ShapeError, kOp, "expected logits [N, classes], got {}",
                 to_string(logits.shape()));
  LOCKSTEP_CHECK(options.label_smoothing >= 0.0 && options.label_smoothing <= 1.0, ValueError, kOp,
                 "expected label_smoothing from 0 to 1, got {}", options.label_smoothing);
  const std::int64_t rows = logits.size(0), classes = logits.size(1);
  const bool indices = target.dtype() == DType::int64;
  if (!indices) require_same(kOp, logits, target);
  const Shape wanted = indices ? Shape{rows} : logits.shape();
  LOCKSTEP_CHECK(target.shape() == wanted, ShapeError, kOp, "expected a {} target of shape {} for logits {}, got {}",
                 name(target.dtype()), to_string(wanted), to_string(logits.shape()), to_string(target.shape()));
  LOCKSTEP_CHECK(indices || options.ignore_index < 0, ValueError, kOp,
                 "expected no class as ignore_index where targets are probabilities, got {}", options.ignore_index);
  if (indices) {
    require_same_device(kOp, logits, target);
    if (target.device() == kCpu) check_indices(target, classes, options.ignore_index);
  }

  // Losses and their mean are kept in the type that is computed in, and rounded once.
  const TensorOptions wide{compute_dtype(logits.dtype()), logits.device()};
  const bool average = options.reduction == Reduction::mean, reduced = options.reduction != Reduction::none;
  Tensor losses = Tensor::empty({rows}, wide), share;  // of a row in the mean
  dispatch_floating(kOp, logits, [&]<class T>(auto on) {
    using C = Compute<T>;
    const auto smoothing = static_cast<C>(options.label_smoothing);
    if (indices) {
      kernels::cross_entropy_forward<T>(on, rows, classes, logits.data<T>(), target.data<std::int64_t>(),
                                        options.ignore_index, smoothing, losses.data<C>());
    } else {
      kernels::cross_entropy_probabilities_forward<T>(on, rows, classes, logits.data<T>(), target.data<T>(), smoothing,
                                                      losses.data<C>());
    }
    if (average && indices) {
      share = Tensor::empty({}, wide);
      kernels::cross_entropy_inverse_count<C>(on, rows, target.data<std::int64_t>(), options.ignore_index,
                                              share.data<C>());
    }
  });
  if (average && !indices) share = Tensor::full({}, 1.0 / static_cast<double>(rows), wide);
  Tensor y = losses;
  if (reduced) y = sum(losses);
  if (average) y = y * share;
  y = y.to(logits.dtype());
  if (!must_record(logits)) return y;

  record(kOp, y, {&logits},
         [x = SavedTensor(logits), target = SavedTensor(target), options, rows, classes, indices, wide,
          share](GradContext& ctx) {
           const Tensor& saved_x = x.get(kOp);
           Tensor grad_losses = ctx.grad.to(wide.dtype);
           if (share.defined()) grad_losses = grad_losses * share;
           grad_losses = broadcast_to(grad_losses, {rows});
           Tensor grad_x = Tensor::empty(saved_x.shape(), saved_x.options());
           dispatch_floating(kOp, saved_x, [&]<class T>(auto on) {
             using C = Compute<T>;
             const auto smoothing = static_cast<C>(options.label_smoothing);
             if (indices) {
               kernels::cross_entropy_backward<T>(on, rows, classes, saved_x.data<T>(),
                                                  target.get(kOp).data<std::int64_t>(), options.ignore_index, smoothing,
                                                  grad_losses.data<C>(), grad_x.data<T>());
             } else {
               kernels::cross_entropy_probabilities_backward<T>(on, rows, classes, saved_x.data<T>(),
                                                                target.get(kOp).data<T>(), smoothing,
                                                                grad_losses.data<C>(), grad_x.data<T>());
             }
           });
           ctx.set(0, std::move(grad_x));
         });
  return y;
}

}  // namespace lockstep
