// Wrong calls: each throws the error of its kind, which names the op and shows the values, and leaves everything as it
// was.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor.h>

using namespace lockstep;

namespace {

/// One wrong call.
struct Misuse {
  std::string what;
  std::function<void()> call;
  std::function<bool(const Error&)> has_type;
  std::string op;
  std::vector<std::string> values;  // that the message must show
};

template <class E>
Misuse wrong(std::string op, std::string what, std::function<void()> call, std::vector<std::string> values = {}) {
  return {std::move(what), std::move(call), [](const Error& e) { return dynamic_cast<const E*>(&e) != nullptr; },
          std::move(op), std::move(values)};
}

Tensor f32(const Shape& shape, Layout layout = Layout::row_major) { return Tensor::ones(shape, {.layout = layout}); }
Tensor f64(const Shape& shape) { return Tensor::ones(shape, {.dtype = DType::float64}); }
Tensor i64(const Shape& shape) { return Tensor::zeros(shape, {.dtype = DType::int64}); }
Tensor classes(const std::vector<std::int64_t>& values) {
  return Tensor::from(values, Shape{static_cast<std::int64_t>(values.size())});
}

constexpr std::int64_t kHuge = std::int64_t{1} << 62;

std::vector<Misuse> elementwise() {
  std::vector<Misuse> all;
  using Binary = Tensor (*)(const Tensor&, const Tensor&);
  for (const auto& [op, run] : {std::pair<const char*, Binary>{"add", add}, {"sub", sub}, {"mul", mul}, {"div", div}}) {
    all.push_back(wrong<ShapeError>(op, "shapes", [run = run] { run(f32({2, 3}), f32({4})); }, {"[2, 3]", "[4]"}));
    all.push_back(
        wrong<ShapeError>(op, "an empty dimension", [run = run] { run(f32({0}), f32({2})); }, {"[0]", "[2]"}));
    all.push_back(
        wrong<DTypeError>(op, "two dtypes", [run = run] { run(f32({2}), f64({2})); }, {"float32", "float64"}));
    all.push_back(wrong<DTypeError>(op, "integers", [run = run] { run(i64({2}), i64({2})); }, {"int64"}));
    all.push_back(wrong<ValueError>(op, "undefined left", [run = run] { run({}, f32({2})); }, {"undefined"}));
    all.push_back(wrong<ValueError>(op, "undefined right", [run = run] { run(f32({2}), {}); }, {"undefined"}));
  }
  using Unary = Tensor (*)(const Tensor&);
  for (const auto& [op, run] : {std::pair<const char*, Unary>{"neg", neg},
                                {"exp", exp},
                                {"log", log},
                                {"sqrt", sqrt},
                                {"relu", relu},
                                {"sigmoid", sigmoid},
                                {"tanh", tanh}}) {
    all.push_back(wrong<ValueError>(op, "undefined", [run = run] { run({}); }, {"undefined"}));
    all.push_back(wrong<DTypeError>(op, "integers", [run = run] { run(i64({2})); }, {"int64"}));
    all.push_back(wrong<DTypeError>(op, "float16", [run = run] { run(f32({2}).to(DType::float16)); }, {"float16"}));
  }
  all.push_back(wrong<ValueError>("affine", "undefined", [] { affine({}, 1.0, 0.0); }, {"undefined"}));
  all.push_back(
      wrong<DTypeError>("affine", "bytes", [] { Tensor::ones({2}, {.dtype = DType::uint8}) * 2.0; }, {"uint8"}));
  return all;
}

std::vector<Misuse> shapes() {
  return {
      wrong<ShapeError>("reshape", "another number of elements",
                        [] {
                          reshape(f32({2, 3}), {4});
                        },
                        {"6", "[2, 3]", "[4]"}),
      wrong<ShapeError>("reshape", "−1 that does not divide",
                        [] {
                          reshape(f32({2, 3}), {4, -1});
                        },
                        {"6", "[4, -1]"}),
      wrong<ShapeError>("reshape", "−1 beside 0",
                        [] {
                          reshape(f32({0}), {0, -1});
                        },
                        {"[0, -1]"}),
      wrong<ShapeError>("reshape", "−1 twice",
                        [] {
                          reshape(f32({6}), {-1, -1});
                        },
                        {"[-1, -1]"}),
      wrong<ShapeError>("Shape", "a negative size of reshape",
                        [] {
                          reshape(f32({6}), {-2, -3});
                        },
                        {"[-2, -3]"}),
      wrong<ShapeError>("Shape", "sizes of reshape that overflow",
                        [] {
                          reshape(f32({6}), {kHuge, kHuge, 6});
                        },
                        {std::to_string(kHuge)}),
      wrong<ValueError>("reshape", "undefined", [] { reshape({}, {1}); }, {"undefined"}),
      wrong<ShapeError>("flatten", "first after last",
                        [] {
                          flatten(f32({2, 3, 4}), 2, 1);
                        },
                        {"2", "1"}),
      wrong<ShapeError>("flatten", "a dimension too far",
                        [] {
                          flatten(f32({2, 3}), 0, 2);
                        },
                        {"[-2, 2)", "2"}),
      wrong<ValueError>("flatten", "undefined", [] { flatten({}); }, {"undefined"}),
      wrong<ShapeError>("transpose", "a dimension too far",
                        [] {
                          transpose(f32({2, 3}), 0, 2);
                        },
                        {"[-2, 2)", "2"}),
      wrong<ShapeError>("transpose", "a dimension too low",
                        [] {
                          transpose(f32({2, 3}), -3, 0);
                        },
                        {"-3"}),
      wrong<ShapeError>("transpose", "a scalar", [] { transpose(f32({}), 0, 0); }, {"0"}),
      wrong<ValueError>("transpose", "undefined", [] { transpose({}, 0, 0); }, {"undefined"}),
      wrong<ValueError>("narrow", "beyond the end", [] { narrow(f32({5}), 0, 3, 3); }, {"[5]", "3"}),
      wrong<ValueError>("narrow", "a negative start", [] { narrow(f32({5}), 0, -1, 2); }, {"-1"}),
      wrong<ValueError>("narrow", "a negative length", [] { narrow(f32({5}), 0, 1, -2); }, {"-2"}),
      wrong<ValueError>("narrow", "start + length overflows", [] { narrow(f32({5}), 0, INT64_MAX, INT64_MAX); },
                        {"[5]"}),
      wrong<ShapeError>("narrow", "a dimension too far", [] { narrow(f32({5}), 1, 0, 1); }, {"1"}),
      wrong<ValueError>("narrow", "undefined", [] { narrow({}, 0, 0, 1); }, {"undefined"}),
      wrong<ValueError>("cat", "no tensors", [] { cat({}, 0); }, {"none"}),
      wrong<ShapeError>("cat", "other sizes",
                        [] {
                          cat(std::vector{f32({2, 3}), f32({2, 4})}, 0);
                        },
                        {"[2, 3]", "[2, 4]"}),
      wrong<ShapeError>("cat", "other ranks",
                        [] {
                          cat(std::vector{f32({2, 3}), f32({2})}, 0);
                        },
                        {"[2, 3]", "[2]"}),
      wrong<DTypeError>("cat", "two dtypes",
                        [] {
                          cat(std::vector{f32({2}), f64({2})}, 0);
                        },
                        {"float32", "float64"}),
      wrong<ShapeError>("cat", "scalars",
                        [] {
                          cat(std::vector{f32({}), f32({})}, 0);
                        },
                        {"0"}),
      wrong<ValueError>("cat", "undefined",
                        [] {
                          cat(std::vector{f32({2}), Tensor()}, 0);
                        },
                        {"undefined"}),
      wrong<ShapeError>("broadcast_to", "a smaller shape",
                        [] {
                          broadcast_to(f32({2, 3}), {3});
                        },
                        {"[2, 3]", "[3]"}),
      wrong<ShapeError>("broadcast_to", "a size other than 1", [] { broadcast_to(f32({2}), {4}); }, {"[2]", "[4]"}),
      wrong<ShapeError>("broadcast_to", "down to 1", [] { broadcast_to(f32({2}), {1}); }, {"[2]", "[1]"}),
      wrong<ValueError>("broadcast_to", "undefined", [] { broadcast_to({}, {1}); }, {"undefined"}),
      wrong<ShapeError>("sum_to", "not its transpose",
                        [] {
                          sum_to(f32({2, 3}), {2});
                        },
                        {"[2, 3]", "[2]"}),
      wrong<ShapeError>("sum_to", "a larger shape",
                        [] {
                          sum_to(f32({3}), {2, 3});
                        },
                        {"[3]", "[2, 3]"}),
      wrong<ValueError>("sum_to", "undefined", [] { sum_to({}, {1}); }, {"undefined"}),
      wrong<ShapeError>("to", "channels_last of a matrix",
                        [] {
                          f32({2, 3}).to(Layout::channels_last);
                        },
                        {"[2, 3]"}),
      wrong<ShapeError>("Shape", "nine dimensions", [] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }, {"9"}),
      wrong<ShapeError>("Shape", "a negative size",
                        [] {
                          f32({2, -3});
                        },
                        {"[2, -3]"}),
      wrong<ShapeError>("Shape", "a product that overflows",
                        [] {
                          f32({kHuge, 4});
                        },
                        {std::to_string(kHuge)}),
  };
}

std::vector<Misuse> reductions() {
  return {
      wrong<ValueError>("sum", "undefined", [] { sum(Tensor()); }, {"undefined"}),
      wrong<ShapeError>("sum", "a dimension too far",
                        [] {
                          sum(f32({2, 3}), {2});
                        },
                        {"2"}),
      wrong<ValueError>("sum", "a dimension twice",
                        [] {
                          sum(f32({2, 3}), {1, -1});
                        },
                        {"[1, -1]"}),
      wrong<DTypeError>("sum", "integers", [] { sum(i64({2})); }, {"int64"}),
      wrong<DTypeError>("sum", "an integer", [] { sum(i64({})); }, {"int64"}),
      wrong<ValueError>("mean", "undefined", [] { mean(Tensor()); }, {"undefined"}),
      wrong<ShapeError>("mean", "a dimension too low",
                        [] {
                          mean(f32({2, 3}), {-3});
                        },
                        {"-3"}),
      wrong<DTypeError>("mean", "bytes", [] { mean(Tensor::ones({2}, {.dtype = DType::uint8})); }, {"uint8"}),
      wrong<ShapeError>("max", "an empty dimension",
                        [] {
                          max(f32({2, 0}), 1);
                        },
                        {"[2, 0]"}),
      wrong<ShapeError>("max", "a dimension too far", [] { max(f32({2}), 1); }, {"1"}),
      wrong<DTypeError>("max", "integers", [] { max(i64({2}), 0); }, {"int64"}),
      wrong<ValueError>("max", "undefined", [] { max({}, 0); }, {"undefined"}),
      wrong<ShapeError>("argmax", "an empty dimension", [] { argmax(f32({0}), 0); }, {"[0]"}),
      wrong<ValueError>("argmax", "undefined", [] { argmax({}, 0); }, {"undefined"}),
      wrong<ValueError>("topk", "more than there are",
                        [] {
                          topk(f32({2, 3}), 4);
                        },
                        {"3", "4"}),
      wrong<ValueError>("topk", "none",
                        [] {
                          topk(f32({2, 3}), 0);
                        },
                        {"0"}),
      wrong<ShapeError>("topk", "a scalar", [] { topk(f32({}), 1); }, {"scalar"}),
      wrong<ValueError>("topk", "undefined", [] { topk({}, 1); }, {"undefined"}),
      wrong<ShapeError>("count_correct", "other rows",
                        [] {
                          count_correct(f32({2, 3}), i64({3}));
                        },
                        {"[2, 3]", "[3]"}),
      wrong<DTypeError>("count_correct", "floating targets",
                        [] {
                          count_correct(f32({2, 3}), f32({2}));
                        },
                        {"float32"}),
      wrong<ValueError>("count_correct", "undefined", [] { count_correct({}, i64({2})); }, {"undefined"}),
      wrong<ValueError>("count_correct", "the best 0",
                        [] {
                          count_correct(f32({2, 3}), i64({2}), 0);
                        },
                        {"0"}),
  };
}

std::vector<Misuse> products() {
  return {
      wrong<ShapeError>("matmul", "inner sizes",
                        [] {
                          matmul(f32({2, 3}), f32({4, 5}));
                        },
                        {"[2, 3]", "[4, 5]"}),
      wrong<ShapeError>("matmul", "vectors", [] { matmul(f32({3}), f32({3})); }, {"[3]"}),
      wrong<ShapeError>("matmul", "a matrix and a batch",
                        [] {
                          matmul(f32({2, 3}), f32({1, 3, 2}));
                        },
                        {"[2, 3]", "[1, 3, 2]"}),
      wrong<ShapeError>("matmul", "batches",
                        [] {
                          matmul(f32({2, 2, 3}), f32({3, 3, 2}));
                        },
                        {"[2, 2, 3]", "[3, 3, 2]"}),
      wrong<DTypeError>("matmul", "two dtypes",
                        [] {
                          matmul(f32({2, 3}), f64({3, 2}));
                        },
                        {"float32", "float64"}),
      wrong<DTypeError>("matmul", "integers",
                        [] {
                          matmul(i64({2, 3}), i64({3, 2}));
                        },
                        {"int64"}),
      wrong<ValueError>("matmul", "undefined",
                        [] {
                          matmul(f32({2, 3}), {});
                        },
                        {"undefined"}),
      wrong<ShapeError>("linear", "features",
                        [] {
                          linear(f32({2, 3}), f32({5, 4}));
                        },
                        {"[2, 3]", "[5, 4]"}),
      wrong<ShapeError>("linear", "a scalar",
                        [] {
                          linear(f32({}), f32({5, 4}));
                        },
                        {"[]"}),
      wrong<ShapeError>("linear", "weight of rank 1",
                        [] {
                          linear(f32({2, 3}), f32({3}));
                        },
                        {"[3]"}),
      wrong<ShapeError>("linear", "bias",
                        [] {
                          linear(f32({2, 3}), f32({5, 3}), f32({4}));
                        },
                        {"[5]", "[4]"}),
      wrong<DTypeError>("linear", "dtype of the bias",
                        [] {
                          linear(f32({2, 3}), f32({5, 3}), f64({5}));
                        },
                        {"float64"}),
      wrong<ValueError>("linear", "undefined weight",
                        [] {
                          linear(f32({2, 3}), {});
                        },
                        {"undefined"}),
  };
}

std::vector<Misuse> images() {
  const Tensor x = f32({1, 4, 5, 5}), w = f32({6, 4, 3, 3});
  return {
      wrong<ShapeError>("conv2d", "channels",
                        [=] {
                          conv2d(f32({1, 3, 5, 5}), w);
                        },
                        {"4", "3", "[6, 4, 3, 3]"}),
      wrong<ShapeError>("conv2d", "no batch",
                        [=] {
                          conv2d(f32({4, 5, 5}), w);
                        },
                        {"[4, 5, 5]"}),
      wrong<ShapeError>("conv2d", "rank of the weight",
                        [=] {
                          conv2d(x, f32({6, 4, 3}));
                        },
                        {"[6, 4, 3]"}),
      wrong<ShapeError>("conv2d", "bias", [=] { conv2d(x, w, f32({4})); }, {"[6]", "[4]"}),
      wrong<ShapeError>("conv2d", "kernel larger than the input",
                        [=] {
                          conv2d(f32({1, 4, 2, 5}), w);
                        },
                        {"[1, 4, 2, 5]"}),
      wrong<ShapeError>("conv2d", "empty kernel",
                        [=] {
                          conv2d(x, f32({6, 4, 0, 3}));
                        },
                        {"[6, 4, 0, 3]"}),
      wrong<ValueError>("conv2d", "stride 0",
                        [=] {
                          conv2d(x, w, {}, {.stride = {0, 1}});
                        },
                        {"0"}),
      wrong<ValueError>("conv2d", "negative stride",
                        [=] {
                          conv2d(x, w, {}, {.stride = {1, -2}});
                        },
                        {"-2"}),
      wrong<ValueError>("conv2d", "negative padding",
                        [=] {
                          conv2d(x, w, {}, {.padding = {-1, 0}});
                        },
                        {"-1"}),
      wrong<ValueError>("conv2d", "dilation 0",
                        [=] {
                          conv2d(x, w, {}, {.dilation = {1, 0}});
                        },
                        {"0"}),
      wrong<ValueError>("conv2d", "padding that overflows",
                        [=] {
                          conv2d(x, w, {}, {.padding = {kHuge, 0}});
                        },
                        {std::to_string(kHuge)}),
      wrong<ValueError>("conv2d", "dilation that overflows",
                        [=] {
                          conv2d(x, w, {}, {.dilation = {1, kHuge}});
                        },
                        {std::to_string(kHuge)}),
      wrong<ValueError>("conv2d", "groups 0", [=] { conv2d(x, w, {}, {.groups = 0}); }, {"0"}),
      wrong<ValueError>("conv2d", "groups that do not divide", [=] { conv2d(x, w, {}, {.groups = 3}); },
                        {"4", "6", "3"}),
      wrong<ShapeError>("conv2d", "groups and the weight", [=] { conv2d(x, w, {}, {.groups = 2}); }, {"8", "4"}),
      wrong<DTypeError>("conv2d", "two dtypes", [=] { conv2d(x, w.to(DType::float64)); }, {"float32", "float64"}),
      wrong<DTypeError>("conv2d", "integers",
                        [=] {
                          conv2d(i64({1, 4, 5, 5}), i64({6, 4, 3, 3}));
                        },
                        {"int64"}),
      wrong<ValueError>("conv2d", "undefined weight", [=] { conv2d(x, {}); }, {"undefined"}),
      wrong<ShapeError>("max_pool2d", "no batch",
                        [] {
                          max_pool2d(f32({4, 5, 5}), {});
                        },
                        {"[4, 5, 5]"}),
      wrong<ShapeError>("max_pool2d", "window larger than the input",
                        [=] {
                          max_pool2d(x, {.kernel_size = {6, 1}});
                        },
                        {"6", "5"}),
      wrong<ValueError>("max_pool2d", "padding over half the window",
                        [=] {
                          max_pool2d(x, {.kernel_size = {3, 3}, .padding = {2, 0}});
                        },
                        {"3", "2"}),
      wrong<ValueError>("max_pool2d", "empty window",
                        [=] {
                          max_pool2d(x, {.kernel_size = {0, 2}});
                        },
                        {"0"}),
      wrong<ValueError>("max_pool2d", "negative stride",
                        [=] {
                          max_pool2d(x, {.stride = {-1, 1}});
                        },
                        {"-1"}),
      wrong<ValueError>("max_pool2d", "dilation 0",
                        [=] {
                          max_pool2d(x, {.dilation = {0, 1}});
                        },
                        {"0"}),
      wrong<ValueError>("max_pool2d", "sizes that overflow",
                        [=] {
                          max_pool2d(x, {.kernel_size = {2, kHuge}, .dilation = {1, 4}});
                        },
                        {std::to_string(kHuge)}),
      wrong<ShapeError>("max_pool2d", "an empty image",
                        [] {
                          max_pool2d(f32({1, 2, 0, 4}), {.kernel_size = {1, 1}});
                        },
                        {"0"}),
      wrong<DTypeError>("max_pool2d", "integers",
                        [] {
                          max_pool2d(i64({1, 1, 4, 4}), {});
                        },
                        {"int64"}),
      wrong<ValueError>("max_pool2d", "undefined", [] { max_pool2d({}, {}); }, {"undefined"}),
      wrong<ValueError>("avg_pool2d", "dilation",
                        [=] {
                          avg_pool2d(x, {.dilation = {2, 1}});
                        },
                        {"[2, 1]"}),
      wrong<ShapeError>("avg_pool2d", "window larger than the input",
                        [=] {
                          avg_pool2d(x, {.kernel_size = {2, 9}});
                        },
                        {"9", "5"}),
      wrong<ValueError>("avg_pool2d", "undefined", [] { avg_pool2d({}, {}); }, {"undefined"}),
      wrong<ShapeError>("adaptive_avg_pool2d", "no output",
                        [=] {
                          adaptive_avg_pool2d(x, {0, 1});
                        },
                        {"[0, 1]"}),
      wrong<ShapeError>("adaptive_avg_pool2d", "negative output",
                        [=] {
                          adaptive_avg_pool2d(x, {1, -1});
                        },
                        {"[1, -1]"}),
      wrong<ShapeError>("adaptive_avg_pool2d", "a matrix",
                        [] {
                          adaptive_avg_pool2d(f32({2, 3}), {1, 1});
                        },
                        {"[2, 3]"}),
      wrong<ValueError>("adaptive_avg_pool2d", "undefined",
                        [] {
                          adaptive_avg_pool2d({}, {1, 1});
                        },
                        {"undefined"}),
  };
}

std::vector<Misuse> norms_and_losses() {
  const Tensor x = f32({2, 3, 4, 4}), c = f32({3});
  const Tensor logits = f32({2, 3});
  return {
      wrong<ShapeError>("batch_norm", "rank 3",
                        [=] {
                          batch_norm(f32({2, 3, 4}), c, c, c, c, {});
                        },
                        {"[2, 3, 4]"}),
      wrong<ShapeError>("batch_norm", "weight", [=] { batch_norm(x, f32({4}), c, c, c, {}); }, {"[3]", "[4]"}),
      wrong<ShapeError>("batch_norm", "bias",
                        [=] {
                          batch_norm(x, c, f32({3, 1}), c, c, {});
                        },
                        {"[3]", "[3, 1]"}),
      wrong<ShapeError>("batch_norm", "running variance", [=] { batch_norm(x, c, c, c, f32({2}), {}); },
                        {"[3]", "[2]"}),
      wrong<ValueError>("batch_norm", "undefined weight", [=] { batch_norm(x, {}, c, c, c, {}); }, {"undefined"}),
      wrong<ValueError>("batch_norm", "one running statistic", [=] { batch_norm(x, c, c, c, {}, {}); },
                        {"running_var"}),
      wrong<ValueError>("batch_norm", "evaluation without statistics",
                        [=] { batch_norm(x, c, c, {}, {}, {.training = false}); }, {"running_mean"}),
      wrong<ValueError>("batch_norm", "one value per channel",
                        [=] {
                          batch_norm(f32({1, 3, 1, 1}), c, c, c, c, {});
                        },
                        {"[1, 3, 1, 1]"}),
      wrong<ValueError>("batch_norm", "an empty batch in training",
                        [=] {
                          batch_norm(f32({0, 3}), c, c, c, c, {});
                        },
                        {"[0, 3]"}),
      wrong<ValueError>("batch_norm", "negative eps", [=] { batch_norm(x, c, c, c, c, {.eps = -1.0}); }, {"-1"}),
      wrong<DTypeError>("batch_norm", "two dtypes", [=] { batch_norm(x, f64({3}), c, c, c, {}); },
                        {"float32", "float64"}),
      wrong<DTypeError>("batch_norm", "dtype of the statistics", [=] { batch_norm(x, c, c, f64({3}), f64({3}), {}); },
                        {"float64"}),
      wrong<ShapeError>("batch_norm_relu", "residual",
                        [=] {
                          batch_norm_relu(x, c, c, c, c, {}, f32({2, 3, 4, 5}));
                        },
                        {"[2, 3, 4, 4]", "[2, 3, 4, 5]"}),
      wrong<DTypeError>("batch_norm_relu", "dtype of the residual",
                        [=] {
                          batch_norm_relu(x, c, c, c, c, {}, f64({2, 3, 4, 4}));
                        },
                        {"float64"}),
      wrong<ValueError>("dropout", "a probability over 1", [=] { dropout(x, 1.5); }, {"1.5"}),
      wrong<ValueError>("dropout", "a negative probability", [=] { dropout(x, -0.5); }, {"-0.5"}),
      wrong<ValueError>("dropout", "no probability", [=] { dropout(x, std::nan("")); }, {"nan"}),
      wrong<DTypeError>("dropout", "integers", [] { dropout(i64({4}), 0.5); }, {"int64"}),
      wrong<ValueError>("dropout", "undefined", [] { dropout({}, 0.5); }, {"undefined"}),
      wrong<ShapeError>("softmax", "a dimension too far", [=] { softmax(logits, 2); }, {"2"}),
      wrong<DTypeError>("softmax", "integers",
                        [] {
                          softmax(i64({2, 3}), 1);
                        },
                        {"int64"}),
      wrong<ValueError>("softmax", "undefined", [] { softmax({}, 0); }, {"undefined"}),
      wrong<ShapeError>("log_softmax", "a dimension too low", [=] { log_softmax(logits, -3); }, {"-3"}),
      wrong<ValueError>("log_softmax", "undefined", [] { log_softmax({}, 0); }, {"undefined"}),
      wrong<ShapeError>("cross_entropy", "logits of rank 3",
                        [] {
                          cross_entropy(f32({2, 3, 4}), i64({2}));
                        },
                        {"[2, 3, 4]"}),
      wrong<ShapeError>("cross_entropy", "no classes",
                        [] {
                          cross_entropy(f32({2, 0}), i64({2}));
                        },
                        {"[2, 0]"}),
      wrong<ShapeError>("cross_entropy", "other rows", [=] { cross_entropy(logits, i64({3})); },
                        {"[2]", "[3]", "[2, 3]"}),
      wrong<ShapeError>("cross_entropy", "probabilities of other classes",
                        [=] {
                          cross_entropy(logits, f32({2, 4}));
                        },
                        {"[2, 4]"}),
      wrong<DTypeError>("cross_entropy", "dtype of the probabilities",
                        [=] {
                          cross_entropy(logits, f64({2, 3}));
                        },
                        {"float64"}),
      wrong<DTypeError>("cross_entropy", "bytes as targets",
                        [=] { cross_entropy(logits, Tensor::zeros({2}, {.dtype = DType::uint8})); }, {"uint8"}),
      wrong<ValueError>("cross_entropy", "a class too high",
                        [=] {
                          cross_entropy(logits, classes({0, 3}));
                        },
                        {"3", "row 1"}),
      wrong<ValueError>("cross_entropy", "a negative class",
                        [=] {
                          cross_entropy(logits, classes({-1, 0}));
                        },
                        {"-1", "row 0"}),
      wrong<ValueError>("cross_entropy", "smoothing over 1",
                        [=] { cross_entropy(logits, i64({2}), {.label_smoothing = 1.5}); }, {"1.5"}),
      wrong<ValueError>("cross_entropy", "undefined target", [=] { cross_entropy(logits, {}); }, {"undefined"}),
      wrong<DTypeError>("cross_entropy", "integer logits",
                        [] {
                          cross_entropy(i64({2, 3}), i64({2}));
                        },
                        {"int64"}),
  };
}

std::vector<Misuse> tensors() {
  static Tensor x = f32({2, 3});
  return {
      wrong<ShapeError>("from", "too few values",
                        [] {
                          Tensor::from(std::vector<float>{1, 2}, {3});
                        },
                        {"3", "2"}),
      wrong<ValueError>("from_blob", "no memory", [] { Tensor::from_blob(nullptr, {2}); }, {"[2]"}),
      wrong<ShapeError>("empty", "channels_last of rank 3",
                        [] {
                          Tensor::empty({2, 3, 4}, {.layout = Layout::channels_last});
                        },
                        {"[2, 3, 4]"}),
      wrong<DeviceError>("empty", "a GPU that is not there",
                         [] {
                           Tensor::empty({2}, {.device = {Device::Type::cuda, 99}});
                         },
                         {"cuda:99"}),
      wrong<DTypeError>("randn", "integers", [] { Tensor::randn({2}, {.dtype = DType::int64}); }, {"int64"}),
      wrong<DTypeError>("rand", "bytes", [] { Tensor::rand({2}, {.dtype = DType::uint8}); }, {"uint8"}),
      wrong<DTypeError>("Tensor::data", "another element type", [] { x.data<double>(); }, {"float64", "float32"}),
      wrong<ShapeError>("item", "six elements", [] { x.item(); }, {"[2, 3]"}),
      wrong<ShapeError>("Shape", "a dimension too far", [] { x.size(2); }, {"2"}),
      wrong<ShapeError>("copy_", "another shape",
                        [] {
                          x.copy_(f32({3, 2}));
                        },
                        {"[2, 3]", "[3, 2]"}),
      wrong<ValueError>("copy_", "undefined", [] { x.copy_({}); }, {"undefined"}),
      wrong<ShapeError>("add_", "another shape", [] { x.add_(f32({3})); }, {"[2, 3]", "[3]"}),
      wrong<DTypeError>("add_", "another dtype",
                        [] {
                          x.add_(f64({2, 3}));
                        },
                        {"float64"}),
      wrong<DTypeError>("mul_", "integers", [] { i64({2}).mul_(2.0); }, {"int64"}),
      wrong<AutogradError>("set_grad", "not a parameter",
                           [] {
                             x.set_grad(f32({2, 3}));
                           }),
      wrong<ShapeError>("set_grad", "another shape", [] { f32({2}).set_requires_grad().set_grad(f32({3})); },
                        {"[2]", "[3]"}),
      wrong<DTypeError>("set_grad", "another dtype", [] { f32({2}).set_requires_grad().set_grad(f64({2})); },
                        {"float64"}),
      wrong<AutogradError>("set_requires_grad", "a result",
                           [] { exp(f32({2}).set_requires_grad()).set_requires_grad(); }, {"exp"}),
      wrong<DTypeError>("set_requires_grad", "integers", [] { i64({2}).set_requires_grad(); }, {"int64"}),
      wrong<AutogradError>("backward", "nothing recorded", [] { x.backward(); }),
      wrong<ShapeError>("backward", "more than one element", [] { f32({2}).set_requires_grad().backward(); }, {"[2]"}),
      wrong<AutogradError>("register_grad_ready_hook", "not a parameter", [] { x.register_grad_ready_hook([] {}); }),
  };
}

TEST_CASE("Wrong calls throw the right error, which names the op and shows the values") {
  std::vector<Misuse> all;
  for (const auto& part :
       {elementwise(), shapes(), reductions(), products(), images(), norms_and_losses(), tensors()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  std::set<std::string> distinct;
  for (const Misuse& misuse : all) {
    const std::string name = misuse.op + ": " + misuse.what;
    CAPTURE(name);
    CHECK(distinct.insert(name).second);
    const Generator generator = default_generator();
    try {
      misuse.call();
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      const std::string message = error.what();
      CAPTURE(message);
      CHECK(misuse.has_type(error));
      CHECK(error.op() == misuse.op);
      CHECK_THAT(message, Catch::StartsWith("[" + misuse.op + "] expected"));
      for (const std::string& value : misuse.values) CHECK_THAT(message, Catch::Contains(value));
    } catch (const std::exception& error) {
      FAIL_CHECK("not an error of ours: " << error.what());
    }
    CHECK(default_generator().draws == generator.draws);
  }
  std::printf("misuse_cases: %zu\n", distinct.size());
  CHECK(distinct.size() >= 150);
}

TEST_CASE("A refused batch norm leaves the running statistics as they were") {
  const Tensor mean = Tensor::full({3}, 5.0), var = Tensor::full({3}, 7.0), c = f32({3});
  CHECK_THROWS_AS(batch_norm(f32({1, 3}), c, c, mean, var, {}), ValueError);
  CHECK_THROWS_AS(batch_norm_relu(f32({4, 3}), c, c, mean, var, {}, f32({4, 2})), ShapeError);
  CHECK(mean.to_vector<double>() == std::vector<double>(3, 5.0));
  CHECK(var.to_vector<double>() == std::vector<double>(3, 7.0));
}

}  // namespace
