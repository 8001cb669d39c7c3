#include <lockstep/layers/linear.h>

#include <cmath>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/layers/init.h>
#include <lockstep/layers/python_repr.h>

namespace lockstep {

Linear::Linear(std::int64_t in_features, std::int64_t out_features, const Options& options) {
  LOCKSTEP_CHECK(in_features > 0 && out_features > 0, ValueError, "Linear", "expected positive sizes, got {} and {}",
                 in_features, out_features);
  weight = Tensor::empty({out_features, in_features});
  init::kaiming_uniform_(weight, {.a = std::sqrt(5.0)});  // = ±1 / √in_features
  register_parameter("weight", weight);
  if (options.bias) {
    bias = Tensor::empty({out_features});
    const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
    init::uniform_(bias, -bound, bound);
  }
  register_parameter("bias", bias);
}

Tensor Linear::forward(const Tensor& x) { return linear(x, weight, bias); }

std::string Linear::extra_repr() const {
  return fmt::format("in_features={}, out_features={}, bias={}", weight.size(1), weight.size(0),
                     detail::python_repr(bias.defined()));
}

}  // namespace lockstep
