#include <lockstep/tests/support/check_op.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/tests/support/op_registry.h>

namespace lockstep::test {
namespace {

/// `x` as a part of a larger tensor with other values around it.
Tensor as_view(const Tensor& x) {
  if (x.rank() == 0) return x;
  const Tensor room = Tensor::full(x.shape().with(0, x.size(0) + 2), 1e6, x.options());
  Tensor view = narrow(room, 0, 1, x.size(0));
  view.copy_(x);
  return view;
}

bool is_differentiable(const Sample& sample, std::size_t i) {
  const Tensor& x = sample.inputs[i];
  return x.defined() && is_floating(x.dtype()) &&
         std::find(sample.constants.begin(), sample.constants.end(), i) == sample.constants.end();
}

/// The sample's inputs as fresh leaves; gradients are asked for `only` one input, or (−1) for all.
std::vector<Tensor> make_some_leaves(const Sample& sample, DType dtype, Device device, int only) {
  std::vector<Tensor> leaves = sample.inputs;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    Tensor& x = leaves[i];
    if (!x.defined()) continue;
    if (is_floating(x.dtype())) x = x.dtype() == dtype ? x.clone() : x.to(dtype);
    x = x.to(device);
    if (!is_floating(x.dtype())) continue;
    if (sample.views) x = as_view(x);
    if (is_differentiable(sample, i) && (only < 0 || only == static_cast<int>(i))) x.set_requires_grad();
  }
  return leaves;
}

/// The weights v: of either sign and magnitude 0.5 to 1.5, exact in every dtype, in the layout of y or, every other
/// time, in the other one.
Tensor make_weights(const Tensor& y) {
  Draws draws(static_cast<std::uint64_t>(y.numel()));
  const Tensor magnitude = draws.uniform(y.shape(), y.layout(), 0.5, 1.5);
  auto* v = magnitude.data<double>();
  for (std::int64_t i = 0; i < y.numel(); ++i) v[i] = std::floor(v[i] * 64.0) / (draws.coin() ? 64.0 : -64.0);
  const bool other = y.rank() == 4 && draws.coin();
  const Layout layout = y.layout() == Layout::row_major ? Layout::channels_last : Layout::row_major;
  return (other ? magnitude.to(layout) : magnitude).to(y.dtype()).to(y.device());
}

double weighted_sum(const Tensor& y, const std::vector<double>& v) {
  const std::vector<double> values = y.to_vector<double>();
  return std::inner_product(values.begin(), values.end(), v.begin(), 0.0);
}

/// What a rounding to a 16-bit type may cost, of the value; 0 for float32, whose roundings the tolerance counts.
double rounding_of(DType dtype) { return dtype == DType::float16 ? 0x1p-11 : dtype == DType::bfloat16 ? 0x1p-8 : 0.0; }

std::string compare(const std::string& what, const Tensor& got, const Tensor& expected, double factor,
                    const Tolerance& tolerance, double& worst) {
  if (!(got.shape() == expected.shape())) {
    return fmt::format("{}: shape {} in {}, {} in float64", what, to_string(got.shape()), name(got.dtype()),
                       to_string(expected.shape()));
  }
  const double relative = factor == 0.0 ? 0.0 : factor * 0x1p-23 + tolerance.roundings * rounding_of(got.dtype());
  const std::vector<double> a = got.to_vector<double>(), b = expected.to_vector<double>();
  double largest = 1.0;
  for (const double value : b) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double size = tolerance.scale == Tolerance::Scale::element ? std::abs(b[i]) : largest;
    const double bound = relative * size;
    const double error = std::abs(a[i] - b[i]);
    if (!(error <= bound))
      return fmt::format("{} [{}]: {} in {}, {} in float64, bound {}", what, i, a[i], name(got.dtype()), b[i], bound);
    if (error > 0) worst = std::max(worst, error / bound);
  }
  return {};
}

/// The bits of the result and of all gradients in float32.
std::vector<std::vector<float>> bits_of(const Sample& sample, DType dtype = DType::float32, Device device = kCpu) {
  const std::vector<Tensor> leaves = make_leaves(sample, dtype, device);
  const Tensor y = sample.run(leaves);
  y.backward(make_weights(y));
  std::vector<std::vector<float>> bits = {y.to(DType::float32).to_vector<float>()};
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    if (is_differentiable(sample, i)) bits.push_back(leaves[i].grad().to(DType::float32).to_vector<float>());
  }
  return bits;
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0);
  });
}

std::uint64_t hash(const std::string& text) {
  std::uint64_t value = 0;
  for (const char c : text) value = value * 131 + static_cast<unsigned char>(c);
  return value;
}

}  // namespace

std::vector<Tensor> make_leaves(const Sample& sample, DType dtype, Device device) {
  return make_some_leaves(sample, dtype, device, -1);
}

double Draws::next(double low, double high) { return static_cast<float>(low + (high - low) * stream_.next_uniform()); }

Tensor Draws::uniform(const Shape& shape, Layout layout, double low, double high) {
  Tensor x = Tensor::empty(shape, {.dtype = DType::float64, .layout = layout});
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] = next(low, high);
  return x;
}

Tensor Draws::away_from_zero(const Shape& shape, Layout layout) {
  Tensor x = uniform(shape, layout, 0.1, 2.0);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    if (coin()) x.data<double>()[i] *= -1.0;
  }
  return x;
}

Tensor Draws::distinct(const Shape& shape, Layout layout) {
  Tensor x = Tensor::empty(shape, {.dtype = DType::float64, .layout = layout});
  auto* values = x.data<double>();
  for (std::int64_t i = 0; i < x.numel(); ++i) values[i] = static_cast<double>(2 * i - x.numel()) / 16.0;
  for (std::int64_t i = x.numel() - 1; i > 0; --i) std::swap(values[i], values[below(i + 1)]);
  return x;
}

Tensor Draws::indices(const Shape& shape, std::int64_t bound) {
  Tensor x = Tensor::empty(shape, {.dtype = DType::int64});
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data<std::int64_t>()[i] = below(bound);
  return x;
}

const std::vector<OpEntry>& op_registry() {
  static const std::vector<OpEntry> registry = [] {
    std::vector<OpEntry> entries;
    register_elementwise_ops(entries);
    register_shape_ops(entries);
    register_copy_ops(entries);
    register_reduction_ops(entries);
    register_convolution_ops(entries);
    register_pool_ops(entries);
    register_norm_ops(entries);
    register_loss_ops(entries);
    return entries;
  }();
  return registry;
}

std::vector<Sample> samples_of(const OpEntry& entry) {
  Draws draws(hash(entry.name));
  return entry.samples(draws);
}

Sample problem_of(const OpEntry& entry, std::uint64_t seed, std::int64_t number) {
  Draws draws(seed, hash(entry.name) ^ static_cast<std::uint64_t>(number));
  return entry.problem(draws);
}

std::string describe(const OpEntry& entry, const Sample& sample) {
  std::vector<std::string> inputs;
  for (const Tensor& x : sample.inputs) {
    inputs.push_back(!x.defined()
                         ? "undefined"
                         : to_string(x.shape()) + (x.layout() == Layout::channels_last ? " channels_last" : "") +
                               (x.dtype() == DType::float64 ? "" : fmt::format(" {}", name(x.dtype()))));
  }
  return fmt::format("{}({}{}{}{})", entry.name, fmt::join(inputs, ", "), sample.attributes.empty() ? "" : "; ",
                     sample.attributes, sample.views ? "; views" : "");
}

GradientCheck check_gradients(const Sample& sample) {
  GradientCheck result;
  const std::vector<Tensor> leaves = make_leaves(sample, DType::float64);
  const Tensor y = sample.run(leaves);
  const Tensor weights = make_weights(y);
  const std::vector<double> v = weights.to_vector<double>();
  y.backward(weights);

  for (std::size_t i = 0; i < leaves.size(); ++i) {
    if (!is_differentiable(sample, i)) continue;
    const Tensor& x = leaves[i];
    const Tensor gradient = x.grad();
    if (!gradient.defined()) {
      result.failure = fmt::format("input {} got no gradient", i);
      return result;
    }
    if (!(gradient.shape() == x.shape()) || gradient.dtype() != x.dtype() || gradient.layout() != x.layout()) {
      result.failure = fmt::format("input {}: gradient {} for {}", i, to_string(gradient), to_string(x));
      return result;
    }
    const auto* analytic = gradient.data<double>();
    auto* values = x.data<double>();  // in the same order
    for (std::int64_t e = 0; e < x.numel(); ++e) {
      const NoGradGuard no_grad;
      const double value = values[e];
      values[e] = value + sample.step;
      const double above = weighted_sum(sample.run(leaves), v);
      values[e] = value - sample.step;
      const double below = weighted_sum(sample.run(leaves), v);
      values[e] = value;
      const double numeric = (above - below) / (2.0 * sample.step);
      ++result.elements;
      result.nonzero += analytic[e] != 0.0;
      if (!(std::abs(analytic[e] - numeric) <= 1e-5 + 1e-3 * std::abs(numeric))) {
        result.failure = fmt::format("input {} [{}]: gradient {}, central difference {}", i, e, analytic[e], numeric);
        return result;
      }
    }

    const std::vector<Tensor> alone = make_some_leaves(sample, DType::float64, kCpu, static_cast<int>(i));
    sample.run(alone).backward(weights);
    if (alone[i].grad().to_vector<double>() != gradient.to_vector<double>()) {
      result.failure = fmt::format("input {}: another gradient when it is the only one asked for", i);
      return result;
    }
  }
  return result;
}

std::string check_reference(const Sample& sample) {
  const NoGradGuard no_grad;
  const Tensor got = sample.run(sample.inputs), expected = sample.reference(sample.inputs);
  if (!(got.shape() == expected.shape())) {
    return fmt::format("shape {}, the reference has {}", to_string(got.shape()), to_string(expected.shape()));
  }
  const std::vector<double> a = got.to_vector<double>(), b = expected.to_vector<double>();
  double largest = 1.0;
  for (const double value : b) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(a[i] - b[i]) <= 1e-12 * largest)) {
      return fmt::format("[{}]: {}, the reference has {}", i, a[i], b[i]);
    }
  }
  return {};
}

PrecisionCheck check_precision(const Sample& sample, const Tolerance& tolerance, DType dtype, Device device) {
  PrecisionCheck result;
  Sample rounded = sample;
  for (Tensor& x : rounded.inputs) {
    if (x.defined() && is_floating(x.dtype())) x = x.to(dtype).to(DType::float64);
  }
  const std::vector<Tensor> wide = make_leaves(rounded, DType::float64), narrow_ = make_leaves(rounded, dtype, device);
  const Tensor expected = sample.run(wide), got = sample.run(narrow_);
  if (got.dtype() != dtype || got.device() != device) {
    result.failure = fmt::format("the result is {} on {}", name(got.dtype()), to_string(got.device()));
    return result;
  }
  result.failure = compare("result", got, expected, tolerance.forward, tolerance, result.worst);
  if (!result.failure.empty()) return result;
  expected.backward(make_weights(expected));
  got.backward(make_weights(got));
  for (std::size_t i = 0; i < wide.size(); ++i) {
    if (!is_differentiable(sample, i)) continue;
    result.failure = compare(fmt::format("gradient of input {}", i), narrow_[i].grad(), wide[i].grad(),
                             tolerance.gradient, tolerance, result.worst);
    if (!result.failure.empty()) return result;
  }
  return result;
}

DeterminismCheck check_determinism(const Sample& sample, Determinism determinism) {
  DeterminismCheck result;
  const int threads_before = num_threads();
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 3, 5}) {
    set_num_threads(threads);
    const auto bits = bits_of(sample);
    if (!same_bits(bits, bits_of(sample)))
      result.failure = fmt::format("other bits the second time, {} threads", threads);
    if (first.empty()) first = bits;
    if (!same_bits(bits, first)) {
      result.depends_on_threads = true;
      if (determinism == Determinism::any_threads) {
        result.failure = fmt::format("other bits with {} threads than with 1", threads);
      }
    }
  }
  set_num_threads(threads_before);
  return result;
}

bool repeats_its_bits(const Sample& sample, DType dtype, Device device) {
  return same_bits(bits_of(sample, dtype, device), bits_of(sample, dtype, device));
}

}  // namespace lockstep::test
