#include <lockstep/layers/batch_norm.h>

#include <vector>

#include <lockstep/core/base/check.h>
#include <lockstep/layers/python_repr.h>

namespace lockstep {

BatchNorm::BatchNorm(std::int64_t num_features, const Options& options, int rank)
    : num_features_(num_features), options_(options), rank_(rank) {
  LOCKSTEP_CHECK(num_features > 0, ValueError, "BatchNorm", "expected a positive number of features, got {}",
                 num_features);
  if (options.affine) {
    weight = Tensor::ones({num_features});
    bias = Tensor::zeros({num_features});
  }
  if (options.track_running_stats) {
    running_mean = Tensor::zeros({num_features});
    running_var = Tensor::ones({num_features});
    num_batches_tracked = Tensor::zeros({}, {.dtype = DType::int64});
  }
  register_parameter("weight", weight);
  register_parameter("bias", bias);
  register_buffer("running_mean", running_mean);
  register_buffer("running_var", running_var);
  register_buffer("num_batches_tracked", num_batches_tracked);
}

BatchNormOptions BatchNorm::forward_options(const Tensor& x) const {
  LOCKSTEP_CHECK(x.rank() == rank_ && x.size(1) == num_features_, ShapeError, "batch_norm",
                 "expected an input of {} dimensions and {} channels, got {}", rank_, num_features_,
                 to_string(x.shape()));
  BatchNormOptions forward{.training = is_training() || !running_mean.defined(), .momentum = 0.0, .eps = options_.eps};
  if (options_.momentum) {
    forward.momentum = *options_.momentum;
  } else if (num_batches_tracked.defined()) {
    forward.momentum = 1.0 / static_cast<double>(*num_batches_tracked.data<std::int64_t>() + 1);
  }
  return forward;
}

void BatchNorm::count_batch() {
  if (is_training() && num_batches_tracked.defined()) ++*num_batches_tracked.data<std::int64_t>();
}

std::pair<Tensor, Tensor> BatchNorm::weight_and_bias(const Tensor& x) const {
  if (weight.defined()) return {weight, bias};
  const TensorOptions options{.dtype = x.dtype(), .device = x.device()};
  return {Tensor::ones({num_features_}, options), Tensor::zeros({num_features_}, options)};
}

Tensor BatchNorm::forward_over_ranks(const Tensor& x, const BatchNormOptions& options) {
  const std::vector<int> dims = rank_ == 4 ? std::vector{0, 2, 3} : std::vector{0};
  const Shape per_channel = rank_ == 4 ? Shape{1, num_features_, 1, 1} : Shape{1, num_features_};
  const TensorOptions plain{.dtype = x.dtype(), .device = x.device()};
  const double here = static_cast<double>(x.numel()) / static_cast<double>(num_features_);
  const Tensor parts[] = {sum(x, dims), Tensor::full({1}, here, plain)};
  const Tensor sums = all_reduce_(cat(parts, 0));
  const double count = narrow(sums.detach(), 0, num_features_, 1).item();
  const Tensor batch_mean = affine(narrow(sums, 0, 0, num_features_), 1.0 / count, 0.0);
  const Tensor centred = x - reshape(batch_mean, per_channel);
  const Tensor variance = affine(all_reduce_(sum(centred * centred, dims)), 1.0 / count, 0.0);
  if (running_mean.defined()) {
    running_mean.detach().mul_(1.0 - options.momentum).add_(batch_mean, options.momentum);
    running_var.detach().mul_(1.0 - options.momentum).add_(variance, options.momentum * count / (count - 1.0));
  }
  const auto [scale, shift] = weight_and_bias(x);
  const Tensor factor = scale / sqrt(affine(variance, 1.0, options.eps));
  return centred * reshape(factor, per_channel) + reshape(shift, per_channel);
}

Tensor BatchNorm::forward(const Tensor& x) {
  const BatchNormOptions options = forward_options(x);
  if (is_training() && all_reduce_) {
    Tensor y = forward_over_ranks(x, options);
    count_batch();
    return y;
  }
  const auto [scale, shift] = weight_and_bias(x);
  Tensor y = batch_norm(x, scale, shift, running_mean, running_var, options);
  count_batch();
  return y;
}

std::string BatchNorm::extra_repr() const {
  using detail::python_repr;
  return fmt::format("{}, eps={}, momentum={}, affine={}, track_running_stats={}", num_features_,
                     python_repr(options_.eps), options_.momentum ? python_repr(*options_.momentum) : "None",
                     python_repr(options_.affine), python_repr(options_.track_running_stats));
}

Tensor batch_norm_relu(BatchNorm& norm, ReLU& relu, const Tensor& x, const Tensor& residual) {
  if (norm.has_forward_hooks() || relu.has_forward_hooks() || norm.is_synchronized()) [[unlikely]] {
    const Tensor y = norm(x);
    return relu(residual.defined() ? y + residual : y);
  }
  const BatchNormOptions options = norm.forward_options(x);
  const auto [scale, shift] = norm.weight_and_bias(x);
  Tensor y = batch_norm_relu(x, scale, shift, norm.running_mean, norm.running_var, options, residual);
  norm.count_batch();
  return y;
}

}  // namespace lockstep
