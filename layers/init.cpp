#include <lockstep/layers/init.h>

#include <cmath>
#include <numbers>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/random.h>

namespace lockstep::init {

namespace {

double fan_of(const char* op, const Tensor& weight, FanMode mode) {
  require_defined(op, weight, "a weight");
  LOCKSTEP_CHECK(weight.rank() >= 2, ShapeError, op, "expected a weight of at least 2 dimensions, got {}",
                 to_string(weight.shape()));
  std::int64_t fan = weight.size(mode == FanMode::fan_in ? 1 : 0);
  for (int dim = 2; dim < weight.rank(); ++dim) fan *= weight.size(dim);
  return static_cast<double>(fan);
}

/// gain / √fan: the standard deviation that keeps the variance.
double kaiming_stddev(const char* op, const Tensor& weight, const KaimingOptions& options) {
  const double fan = fan_of(op, weight, options.mode);
  double gain = 1.0;
  if (options.nonlinearity == Nonlinearity::relu) gain = std::numbers::sqrt2;
  if (options.nonlinearity == Nonlinearity::leaky_relu) gain = std::sqrt(2.0 / (1.0 + options.a * options.a));
  return gain / std::sqrt(fan);
}

}  // namespace

void constant_(const Tensor& tensor, double value) {
  const NoGradGuard no_grad;
  Tensor(tensor).fill_(value);
}

void uniform_(const Tensor& tensor, double low, double high) {
  require_defined("uniform_", tensor, "a tensor");
  LOCKSTEP_CHECK(low <= high, ValueError, "uniform_", "expected low <= high, got {} and {}", low, high);
  Generator& generator = default_generator();
  dispatch_floating("uniform_", tensor, [&]<class T>(auto on) {
    kernels::fill_uniform<T>(on, tensor.numel(), static_cast<Compute<T>>(low), static_cast<Compute<T>>(high),
                             generator.seed, generator.draws++, tensor.data<T>());
  });
  lockstep::detail::bump_version(tensor);
}

void normal_(const Tensor& tensor, double mean, double stddev) {
  require_defined("normal_", tensor, "a tensor");
  LOCKSTEP_CHECK(stddev >= 0.0, ValueError, "normal_", "expected stddev >= 0, got {}", stddev);
  Generator& generator = default_generator();
  dispatch_floating("normal_", tensor, [&]<class T>(auto on) {
    kernels::fill_normal<T>(on, tensor.numel(), static_cast<Compute<T>>(mean), static_cast<Compute<T>>(stddev),
                            generator.seed, generator.draws++, tensor.data<T>());
  });
  lockstep::detail::bump_version(tensor);
}

void kaiming_uniform_(const Tensor& weight, const KaimingOptions& options) {
  const double stddev = kaiming_stddev("kaiming_uniform_", weight, options);
  if (weight.numel() == 0) return;  // also where the fan is 0
  const double bound = std::sqrt(3.0) * stddev;
  uniform_(weight, -bound, bound);
}

void kaiming_normal_(const Tensor& weight, const KaimingOptions& options) {
  const double stddev = kaiming_stddev("kaiming_normal_", weight, options);
  if (weight.numel() == 0) return;
  normal_(weight, 0.0, stddev);
}

}  // namespace lockstep::init
