#include <lockstep/core/autograd/anomaly.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include <lockstep/core/autograd/node.h>
#include <lockstep/core/base/check.h>

namespace lockstep {
namespace {

constinit thread_local bool t_enabled = false;

/// 0 for undefined tensors and dtypes that have none.
std::int64_t count_nan(const Tensor& x) {
  if (!x.defined() || !is_floating(x.dtype())) return 0;
  const AnomalyMode off(false);  // looking is not to be looked at
  const std::vector<double> values = x.to_vector<double>();
  return std::count_if(values.begin(), values.end(), [](double value) { return std::isnan(value); });
}

bool has_nan(const Tensor& x) { return count_nan(x) > 0; }

[[noreturn]] void fail_in_backward(const detail::Node& node, int input, const char* expected, const Tensor& grad) {
  detail::fail<AnomalyError>(
      node.op(),
      "expected {} from its backward, got {} NaN among {} elements of the gradient of input {}, shape {}{}{}", expected,
      count_nan(grad), grad.numel(), input, to_string(grad.shape()),
      node.result_had_nan ? "; its result in forward had NaN already, from an input" : "", detail::recorded_by(node));
}

}  // namespace

AnomalyMode::AnomalyMode(bool enabled) : previous_(std::exchange(t_enabled, enabled)) {}
AnomalyMode::~AnomalyMode() { t_enabled = previous_; }
bool anomaly_enabled() { return t_enabled; }

namespace detail {

std::string recorded_by(const Node& node) {
  return node.call_site ? "; called by" + to_string(*node.call_site) : std::string();
}

void watch_forward(Node& node, const Tensor& output, std::span<const Tensor* const> inputs) {
  node.call_site = std::make_unique<CallSite>(CallSite::here());
  node.result_had_nan = has_nan(output);
  if (!node.result_had_nan) return;
  LOCKSTEP_CHECK(std::any_of(inputs.begin(), inputs.end(), [](const Tensor* input) { return has_nan(*input); }),
                 AnomalyError, node.op(),
                 "expected a result without NaN from inputs without NaN, got {} NaN among {} elements of shape {}{}",
                 count_nan(output), output.numel(), to_string(output.shape()), recorded_by(node));
}

void watch_backward(Node& node, GradContext& context) {
  const AnomalyMode off(false);
  context.watched_ = !has_nan(context.grad);
  try {
    node.run(context);
  } catch (const AnomalyError&) {
    throw;
  } catch (const std::exception& error) {
    std::throw_with_nested(AnomalyError(
        node.op(),
        fmt::format("expected its backward to return, got an exception: {}{}", error.what(), recorded_by(node))));
  }
}

void accumulate_watched(Node& node, int i, Tensor grad) {
  if (has_nan(grad)) fail_in_backward(node, i, "gradients without NaN", grad);
  Node& input = *node.inputs()[static_cast<std::size_t>(i)];
  const bool spoiled = has_nan(input.grad);
  input.accumulate(std::move(grad));
  if (!spoiled && has_nan(input.grad)) {
    fail_in_backward(node, i, "a gradient that adds up without NaN with those of other uses", input.grad);
  }
}

}  // namespace detail
}  // namespace lockstep
