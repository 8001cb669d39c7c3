// Dropout.
#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/random.h>

namespace lockstep {

Tensor dropout(const Tensor& x, double p, bool training) {
  require_defined("dropout", x, "a tensor");
  LOCKSTEP_CHECK(p >= 0.0 && p <= 1.0, ValueError, "dropout", "expected a probability from 0 to 1, got {}", p);
  if (!training || p == 0.0) return x;
  require_floating("dropout", x);  // before a draw is taken
  Generator& generator = default_generator();
  const std::uint64_t seed = generator.seed, stream = generator.draws++;
  const auto apply = [=](const Tensor& from) {
    Tensor to = Tensor::empty(from.shape(), from.options());
    dispatch_floating("dropout", from, [&]<class T>(auto on) {
      kernels::dropout<T>(on, from.numel(), from.data<T>(), p, seed, stream, to.data<T>());
    });
    return to;
  };
  Tensor y = apply(x);
  if (must_record(x)) {
    // The mask is drawn again instead of kept; it goes by position in memory, so the layout must be that of the
    // forward.
    record("dropout", y, {&x},
           [apply, layout = x.layout()](GradContext& ctx) { ctx.set(0, apply(ctx.grad.to(layout))); });
  }
  return y;
}

}  // namespace lockstep
