#include <lockstep/tests/support/reference_nn.h>

#include <cmath>
#include <vector>

#include <lockstep/core/base/philox.h>
#include <lockstep/tests/support/reference.h>

namespace lockstep::test::reference {
namespace {

std::vector<int> all_but_channels(const Tensor& x) { return x.rank() == 4 ? std::vector{0, 2, 3} : std::vector{0}; }

double sum_of_squared_deviations(const std::vector<double>& values) {
  const double center = mean(values);
  std::vector<double> squares;
  for (const double value : values) squares.push_back((value - center) * (value - center));
  return sum(squares);
}
double biased_variance(const std::vector<double>& values) {
  return sum_of_squared_deviations(values) / static_cast<double>(values.size());
}
double unbiased_variance(const std::vector<double>& values) {
  return sum_of_squared_deviations(values) / static_cast<double>(values.size() - 1);
}

double log_of_sum_of_exponentials(const std::vector<double>& values) {
  const double largest = max(values);
  std::vector<double> exponentials;
  for (const double value : values) exponentials.push_back(std::exp(value - largest));
  return largest + std::log(sum(exponentials));
}

/// What a target asks of every class, before smoothing.
std::vector<double> probabilities(const Tensor& target, std::int64_t row, std::int64_t classes) {
  std::vector<double> all(static_cast<std::size_t>(classes), 0.0);
  if (target.dtype() == DType::int64) {
    all[static_cast<std::size_t>(target.data<std::int64_t>()[row])] = 1.0;
  } else {
    for (std::size_t c = 0; c < all.size(); ++c) all[c] = target.data<double>()[row * classes + static_cast<int>(c)];
  }
  return all;
}

}  // namespace

std::pair<Tensor, Tensor> running_statistics(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                                             double momentum) {
  const auto blend = [=](double before, double now) { return (1.0 - momentum) * before + momentum * now; };
  return {map(running_mean, reduce(x, all_but_channels(x), false, mean), blend),
          map(running_var, reduce(x, all_but_channels(x), false, unbiased_variance), blend)};
}

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options, const Tensor& residual) {
  const Values center(options.training ? reduce(x, all_but_channels(x), false, mean) : running_mean);
  const Values variance(options.training ? reduce(x, all_but_channels(x), false, biased_variance) : running_var);
  const Values vx(x), scale(weight), shift(bias);
  const Tensor normalized = tabulate(x.shape(), [&](const Index& i) {
    const Index channel = {i[1]};
    return (vx.at(i) - center.at(channel)) / std::sqrt(variance.at(channel) + options.eps) * scale.at(channel) +
           shift.at(channel);
  });
  return residual.defined() ? map(normalized, residual, [](double a, double b) { return a + b; }) : normalized;
}

Tensor dropout(const Tensor& x, double p, std::uint64_t seed, std::uint64_t count) {
  const Values vx(x);
  std::int64_t position = 0;
  return tabulate(x.shape(), [&](const Index& i) {
    std::int64_t place = position++;
    if (x.layout() == Layout::channels_last) {
      place = ((i[0] * x.size(2) + i[2]) * x.size(3) + i[3]) * x.size(1) + i[1];
    }
    const auto block = philox4x32(seed, static_cast<std::uint64_t>(place / 4), count);
    const double draw = uniform_float(block[static_cast<std::size_t>(place % 4)]);
    return draw >= p ? vx.at(i) / (1.0 - p) : 0.0;
  });
}

Tensor log_softmax(const Tensor& x, int dim) {
  if (x.rank() == 0 || x.numel() == 0) return map(x, [](double) { return 0.0; });
  const Tensor total = reduce(x, {dim}, true, log_of_sum_of_exponentials);
  return map(x, total, [](double value, double log_sum) { return value - log_sum; });
}

Tensor softmax(const Tensor& x, int dim) {
  return map(reference::log_softmax(x, dim), [](double value) { return std::exp(value); });
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options) {
  const std::int64_t rows = logits.size(0), classes = logits.size(1);
  const Values logs(reference::log_softmax(logits, 1));
  std::vector<double> losses;
  double counted = 0.0;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (target.dtype() == DType::int64 && target.data<std::int64_t>()[row] == options.ignore_index) {
      losses.push_back(0.0);
      continue;
    }
    ++counted;
    const std::vector<double> wanted = probabilities(target, row, classes);
    std::vector<double> terms;
    for (std::int64_t c = 0; c < classes; ++c) {
      const double weight = (1.0 - options.label_smoothing) * wanted[static_cast<std::size_t>(c)] +
                            options.label_smoothing / static_cast<double>(classes);
      terms.push_back(-weight * logs.at({row, c}));
    }
    losses.push_back(sum(terms));
  }
  if (options.reduction == Reduction::none) return Tensor::from(losses, {rows});
  return Tensor::from(std::vector{sum(losses) / (options.reduction == Reduction::mean ? counted : 1.0)}, {});
}

}  // namespace lockstep::test::reference
