// Cross-entropy.
#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/cross_entropy.h>
#include <lockstep/kernels/reduce.h>

namespace lockstep {
namespace {

constexpr const char* kOp = "cross_entropy";

/// Checks the targets and returns how many rows count in the mean.
std::int64_t check_indices(const Tensor& target, std::int64_t classes, std::int64_t ignore_index) {
  const auto* t = target.data<std::int64_t>();
  std::int64_t counted = 0;
  for (std::int64_t row = 0; row < target.numel(); ++row) {
    if (t[row] == ignore_index) continue;
    LOCKSTEP_CHECK(t[row] >= 0 && t[row] < classes, ValueError, kOp,
                   "expected targets from 0 to {} or ignore_index {}, got {} in row {}", classes - 1, ignore_index,
                   t[row], row);
    ++counted;
  }
  return counted;
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
  const std::int64_t counted = indices ? check_indices(target, classes, options.ignore_index) : rows;

  const TensorOptions plain{logits.dtype(), logits.device()};
  const double scale = options.reduction == Reduction::mean ? 1.0 / static_cast<double>(counted) : 1.0;
  const bool reduced = options.reduction != Reduction::none;
  Tensor losses = Tensor::empty({rows}, plain);
  Tensor y = reduced ? Tensor::empty({}, plain) : losses;
  dispatch_floating(kOp, logits, [&]<class T>(auto on) {
    const T smoothing = static_cast<T>(options.label_smoothing);
    if (indices) {
      kernels::cross_entropy_forward<T>(on, rows, classes, logits.data<T>(), target.data<std::int64_t>(),
                                        options.ignore_index, smoothing, losses.data<T>());
    } else {
      kernels::cross_entropy_probabilities_forward<T>(on, rows, classes, logits.data<T>(), target.data<T>(), smoothing,
                                                      losses.data<T>());
    }
    if (reduced) kernels::reduce_sum<T>(on, 1, rows, 1, losses.data<T>(), static_cast<T>(scale), y.data<T>());
  });
  if (!must_record(logits)) return y;

  record(kOp, y, {&logits},
         [x = SavedTensor(logits), target = SavedTensor(target), options, rows, classes, indices, reduced,
          scale](GradContext& ctx) {
           const Tensor& saved_x = x.get(kOp);
           Tensor grad_x = Tensor::empty(saved_x.shape(), saved_x.options());
           dispatch_floating(kOp, saved_x, [&]<class T>(auto on) {
             const T smoothing = static_cast<T>(options.label_smoothing);
             const Tensor grad_losses =
                 reduced ? Tensor::full({rows}, ctx.grad.item() * scale, {saved_x.dtype(), saved_x.device()})
                         : ctx.grad;
             if (indices) {
               kernels::cross_entropy_backward<T>(on, rows, classes, saved_x.data<T>(),
                                                  target.get(kOp).data<std::int64_t>(), options.ignore_index, smoothing,
                                                  grad_losses.data<T>(), grad_x.data<T>());
             } else {
               kernels::cross_entropy_probabilities_backward<T>(on, rows, classes, saved_x.data<T>(),
                                                                target.get(kOp).data<T>(), smoothing,
                                                                grad_losses.data<T>(), grad_x.data<T>());
             }
           });
           ctx.set(0, std::move(grad_x));
         });
  return y;
}

}  // namespace lockstep
