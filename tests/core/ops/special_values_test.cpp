// NaN, infinities, denormals and huge values: every op gives what PyTorch gives for special_values.json, made by
// special_values.py, forward and backward, in float32 and float64.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/check_op.h>
#include <lockstep/tests/support/values.h>

using namespace lockstep;
using namespace lockstep::test;
using nlohmann::json;

namespace {

using Tensors = std::vector<Tensor>;

// ---- Attributes, as special_values.py writes them: floats as texts.

double number(const json& a, const char* key, double otherwise) {
  return a.contains(key) ? std::strtod(a[key].get<std::string>().c_str(), nullptr) : otherwise;
}
Shape shape_of(const json& sizes) {
  return Shape{std::span<const std::int64_t>(sizes.get<std::vector<std::int64_t>>())};
}
std::vector<int> ints(const json& list) { return list.get<std::vector<int>>(); }
Pair pair(const json& a, const char* key, Pair otherwise) { return a.contains(key) ? a[key].get<Pair>() : otherwise; }

Conv2dOptions conv_options(const json& a) {
  return {pair(a, "stride", {1, 1}), pair(a, "padding", {0, 0}), {1, 1}, a.value("groups", std::int64_t{1})};
}
Pool2dOptions pool_options(const json& a) {
  return {a["kernel"].get<Pair>(),     a["stride"].get<Pair>(), a["padding"].get<Pair>(),
          pair(a, "dilation", {1, 1}), a.value("ceil", false),  a.value("include", true)};
}
BatchNormOptions norm_options(const json& a) { return {a["training"].get<bool>(), number(a, "momentum", 0.1)}; }
CrossEntropyOptions loss_options(const json& a) {
  const std::string reduction = a["reduction"];
  return {reduction == "none"   ? Reduction::none
          : reduction == "mean" ? Reduction::mean
                                : Reduction::sum,
          a.value("ignore", std::int64_t{-100}), number(a, "smoothing", 0.0)};
}

/// The result of a batch norm and the running statistics that it leaves behind.
Tensors with_statistics(const Tensors& x, const std::function<Tensor(const Tensor& mean, const Tensor& var)>& op) {
  const Tensor mean = x[3].clone(), var = x[4].clone();
  return {op(mean, var), mean, var};
}

/// What the bounds on finite values are relative to, besides the value itself.
enum class Size {
  value,   ///< nothing
  tensor,  ///< the largest value of the tensor, up to 1: sums
  one,     ///< 1: sums that cancel
};

/// How an op is called, and how far finite results and gradients may lie from PyTorch's, in epsilons of the size. Sizes
/// end at the smallest normal number, of which an epsilon is the smallest denormal: a denormal of more than that many
/// units cannot pass for 0. 0 epsilons mean equal values, and then zeros have PyTorch's sign unless `any_zero`.
struct Call {
  std::function<Tensors(const Tensors&, const json&)> run;
  double forward = 0, gradient = 0;
  Size size = Size::value;
  bool any_zero = false;
  bool elementwise = false;  ///< each element stands for itself: the test moves it through all places of a vector
};

Call unary(Tensor (*op)(const Tensor&), double forward, double gradient, bool any_zero = false) {
  return {[op](const Tensors& x, const json&) { return Tensors{op(x[0])}; },
          forward,
          gradient,
          Size::value,
          any_zero,
          true};
}
Call binary(Tensor (*op)(const Tensor&, const Tensor&)) {
  return {[op](const Tensors& x, const json&) { return Tensors{op(x[0], x[1])}; }, 0, 0, Size::value, false, true};
}

Tensors both(const std::pair<Tensor, Tensor>& results) { return {results.first, results.second}; }

const std::map<std::string, Call>& calls() {
  static const std::map<std::string, Call> all = {
      {"add", binary(add)},
      {"sub", binary(sub)},
      {"mul", binary(mul)},
      {"div", binary(div)},
      {"affine",
       {[](const Tensors& x, const json& a) {
          return Tensors{affine(x[0], number(a, "scale", 1), number(a, "shift", 0))};
        },
        0, 0, Size::value, false, true}},
      {"neg", unary(neg, 0, 0)},
      {"exp", unary(exp, 2, 4)},
      {"log", unary(log, 2, 2)},
      {"sqrt", unary(sqrt, 0, 0)},
      {"relu", unary(relu, 0, 0, true)},
      {"sigmoid", unary(sigmoid, 2, 4)},
      {"tanh", unary(tanh, 2, 4)},
      {"clone", {[](const Tensors& x, const json&) { return Tensors{x[0].clone()}; }, 0, 0, Size::value, false, true}},
      {"reshape", {[](const Tensors& x, const json& a) { return Tensors{reshape(x[0], shape_of(a["shape"]))}; }}},
      {"flatten", {[](const Tensors& x, const json& a) { return Tensors{flatten(x[0], a["dims"][0], a["dims"][1])}; }}},
      {"transpose",
       {[](const Tensors& x, const json& a) { return Tensors{transpose(x[0], a["dims"][0], a["dims"][1])}; }}},
      {"narrow", {[](const Tensors& x, const json& a) {
         return Tensors{narrow(x[0], a["range"][0], a["range"][1], a["range"][2])};
       }}},
      {"cat", {[](const Tensors& x, const json& a) { return Tensors{cat(x, a["dim"])}; }}},
      {"broadcast_to",
       {[](const Tensors& x, const json& a) { return Tensors{broadcast_to(x[0], shape_of(a["shape"]))}; }, 0, 2,
        Size::tensor}},
      {"sum_to",
       {[](const Tensors& x, const json& a) { return Tensors{sum_to(x[0], shape_of(a["shape"]))}; }, 2, 0,
        Size::tensor}},
      {"to(Layout)", {[](const Tensors& x, const json&) { return Tensors{x[0].to(Layout::channels_last)}; }}},
      {"to(DType)",
       {[](const Tensors& x, const json& a) {
          const std::map<std::string, DType> dtypes = {{"float16", DType::float16},
                                                       {"bfloat16", DType::bfloat16},
                                                       {"float32", DType::float32},
                                                       {"float64", DType::float64}};
          return Tensors{x[0].to(dtypes.at(a["dtype"]))};
        },
        0, 0, Size::value, false, true}},
      {"sum",
       {[](const Tensors& x, const json& a) {
          return Tensors{a.contains("dims") ? sum(x[0], ints(a["dims"])) : sum(x[0])};
        },
        2, 0, Size::tensor}},
      {"mean",
       {[](const Tensors& x, const json& a) {
          return Tensors{a.contains("dims") ? mean(x[0], ints(a["dims"])) : mean(x[0])};
        },
        2, 2, Size::tensor}},
      {"max",
       {[](const Tensors& x, const json& a) { return both(max(x[0], a["dim"].get<int>())); }, 0, 0, Size::value, true}},
      {"argmax", {[](const Tensors& x, const json& a) { return Tensors{argmax(x[0], a["dim"].get<int>())}; }}},
      {"topk", {[](const Tensors& x, const json& a) { return both(topk(x[0], a["k"])); }, 0, 0, Size::value, true}},
      {"count_correct", {[](const Tensors& x, const json& a) {
         return Tensors{Tensor::from(std::vector<std::int64_t>{count_correct(x[0], x[1], a["k"])}, {})};
       }}},
      {"matmul", {[](const Tensors& x, const json&) { return Tensors{matmul(x[0], x[1])}; }, 2, 2, Size::tensor}},
      {"linear",
       {[](const Tensors& x, const json&) { return Tensors{linear(x[0], x[1], x.size() > 2 ? x[2] : Tensor())}; }, 2, 2,
        Size::tensor}},
      {"linear_relu",
       {[](const Tensors& x, const json&) { return Tensors{linear_relu(x[0], x[1], x.size() > 2 ? x[2] : Tensor())}; },
        2, 2, Size::tensor}},
      {"conv2d_relu",
       {[](const Tensors& x, const json& a) {
          return Tensors{conv2d_relu(x[0], x[1], x.size() > 2 ? x[2] : Tensor(), conv_options(a))};
        },
        2, 2, Size::tensor}},
      {"conv2d",
       {[](const Tensors& x, const json& a) {
          return Tensors{conv2d(x[0], x[1], x.size() > 2 ? x[2] : Tensor(), conv_options(a))};
        },
        2, 2, Size::tensor}},
      {"max_pool2d",
       {[](const Tensors& x, const json& a) { return Tensors{max_pool2d(x[0], pool_options(a))}; }, 0, 0, Size::value,
        true}},
      {"avg_pool2d",
       {[](const Tensors& x, const json& a) { return Tensors{avg_pool2d(x[0], pool_options(a))}; }, 2, 4,
        Size::tensor}},
      {"adaptive_avg_pool2d",
       {[](const Tensors& x, const json& a) { return Tensors{adaptive_avg_pool2d(x[0], a["output"].get<Pair>())}; }, 2,
        4, Size::tensor}},
      {"batch_norm",
       {[](const Tensors& x, const json& a) {
          return with_statistics(x, [&](const Tensor& mean, const Tensor& var) {
            return batch_norm(x[0], x[1], x[2], mean, var, norm_options(a));
          });
        },
        8, 16, Size::one}},
      {"batch_norm_relu",
       {[](const Tensors& x, const json& a) {
          return with_statistics(x, [&](const Tensor& mean, const Tensor& var) {
            return batch_norm_relu(x[0], x[1], x[2], mean, var, norm_options(a), x.size() > 5 ? x[5] : Tensor());
          });
        },
        8, 16, Size::one}},
      {"dropout",
       {[](const Tensors& x, const json& a) { return Tensors{dropout(x[0], number(a, "p", 0), a["training"])}; }, 0, 0,
        Size::value, false, true}},
      {"softmax",
       {[](const Tensors& x, const json& a) { return Tensors{softmax(x[0], a["dim"])}; }, 4, 16, Size::tensor}},
      {"log_softmax",
       {[](const Tensors& x, const json& a) { return Tensors{log_softmax(x[0], a["dim"])}; }, 4, 16, Size::tensor}},
      {"cross_entropy",
       {[](const Tensors& x, const json& a) { return Tensors{cross_entropy(x[0], x[1], loss_options(a))}; }, 4, 4,
        Size::tensor}},
  };
  return all;
}

// ---- The file.

/// A text of special_values.py: '3*nan' is three times NaN, '5~3' three ordinary values from the fifth.
template <class T>
std::vector<T> parse(const std::string& text) {
  std::vector<T> values;
  std::istringstream tokens(text);
  for (std::string token; tokens >> token;) {
    const std::size_t sign = token.find_first_of("*~");
    const std::string rest = sign == std::string::npos ? token : token.substr(sign + 1);
    const std::int64_t first = sign == std::string::npos ? 1 : std::stoll(token);
    if (sign != std::string::npos && token[sign] == '~') {
      for (std::int64_t i = first; i < first + std::stoll(rest); ++i) {
        values.push_back(static_cast<T>((static_cast<double>((29 * i + 7) % 61) - 30.5) / 8));
      }
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
      values.insert(values.end(), static_cast<std::size_t>(first), std::stoll(rest));
    } else {
      T value;  // std::stof refuses denormals
      if constexpr (std::is_same_v<T, float>) {
        value = std::strtof(rest.c_str(), nullptr);
      } else {
        value = std::strtod(rest.c_str(), nullptr);
      }
      values.insert(values.end(), static_cast<std::size_t>(first), value);
    }
  }
  return values;
}

Tensor make_tensor(const std::string& text, const Shape& shape, DType dtype) {
  if (dtype == DType::int64) return Tensor::from(parse<std::int64_t>(text), shape);
  if (dtype == DType::float32) return Tensor::from(parse<float>(text), shape);
  const Tensor x = Tensor::from(parse<double>(text), shape);
  return dtype == DType::float64 ? x : x.to(dtype);
}

/// The default gradient of a result, as in special_values.py.
Tensor default_weights(const Tensor& y) {
  std::vector<double> values(static_cast<std::size_t>(y.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = (0.5 + static_cast<double>(i % 5) / 4) * (i % 3 == 1 ? -1 : 1);
  }
  return Tensor::from(values, y.shape()).to(y.dtype());
}

struct Grid {
  json texts, cases;
};
const Grid& grid() {
  static const Grid grid = [] {
    std::ifstream file(LOCKSTEP_TEST_DATA "/../core/ops/special_values.json");
    json all = json::parse(file);
    return Grid{all["texts"], all["cases"]};
  }();
  return grid;
}

// ---- Comparison.

double epsilon(DType dtype) {
  switch (dtype) {
    case DType::float16: return 0x1p-10;
    case DType::bfloat16: return 0x1p-7;
    case DType::float32: return 0x1p-23;
    default: return 0x1p-52;
  }
}
double smallest_normal(DType dtype) {
  switch (dtype) {
    case DType::float16: return 0x1p-14;
    case DType::bfloat16:
    case DType::float32: return 0x1p-126;
    default: return 0x1p-1022;
  }
}

/// NaN where NaN is expected, equal infinities, finite values within `units`. Returns what differs first, or nothing.
std::string compare(const Tensor& got, const Tensor& expected, const Call& call, double units, bool signs) {
  if (!(got.shape() == expected.shape())) {
    return fmt::format("shape {} instead of {}", to_string(got.shape()), to_string(expected.shape()));
  }
  if (got.dtype() != expected.dtype())
    return fmt::format("{} instead of {}", name(got.dtype()), name(expected.dtype()));
  const Values a = values_of(got), b = values_of(expected);
  double least = call.size == Size::one ? 1.0 : smallest_normal(expected.dtype());
  for (const double value : b) {
    if (call.size == Size::tensor && std::isfinite(value)) least = std::max(least, std::min(std::fabs(value), 1.0));
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double size = std::max(std::fabs(b[i]), least);
    const bool equal =
        a[i] == b[i] ? !signs || std::signbit(a[i]) == std::signbit(b[i]) : std::isnan(a[i]) && std::isnan(b[i]);
    const bool near = std::isfinite(a[i]) && std::isfinite(b[i]) && units > 0 &&
                      std::fabs(a[i] - b[i]) <= units * epsilon(expected.dtype()) * size;
    if (!equal && !near) return fmt::format("[{}] is {} instead of {}", i, a[i], b[i]);
  }
  return {};
}

/// The elements of a flat tensor moved on by `places`, the last ones to the front.
Tensor rotated(const Tensor& x, std::int64_t places) {
  places = x.numel() > 0 ? places % x.numel() : 0;
  if (places == 0) return x;
  return cat(Tensors{narrow(x, 0, x.numel() - places, places), narrow(x, 0, 0, x.numel() - places)}, 0).detach();
}

struct Run {
  std::int64_t elements = 0;
  std::string failure;
};

/// Runs one case and compares all results and gradients.
Run run(const json& row, DType dtype, Layout layout, std::int64_t rotation) {
  const Call& call = calls().at(row["op"]);
  const auto text = [](const json& id) { return grid().texts[id.get<std::size_t>()].get<std::string>(); };
  const auto place = [&](const Tensor& x) {
    if (x.rank() == 4) return x.to(layout);
    return x.rank() == 1 ? rotated(x, rotation) : x;
  };
  Tensors inputs;
  for (const json& input : row["inputs"]) {
    if (input.is_null()) {
      inputs.emplace_back();
      continue;
    }
    inputs.push_back(
        place(make_tensor(text(input[1]), shape_of(input[0]), input[2] == "int64" ? DType::int64 : dtype)));
    if (input[2] == "leaf") inputs.back().set_requires_grad();
  }

  Run done;
  const Tensors results = call.run(inputs, row["attributes"]);
  const auto check = [&](const std::string& what, const Tensor& got, const std::string& values, double units) {
    const Tensor expected = place(make_tensor(values, got.shape(), got.dtype()));
    done.elements += got.numel();
    const std::string difference =
        compare(got, expected, call, units, units == 0 && !call.any_zero && got.shape() == results[0].shape());
    if (!difference.empty() && done.failure.empty()) done.failure = what + " " + difference;
  };
  REQUIRE(results.size() == row["results"].size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    REQUIRE(results[i].shape() == shape_of(row["results"][i][0]));
    check(fmt::format("result {}", i), results[i], text(row["results"][i][1]), call.forward);
  }
  if (row["gradients"].empty()) return done;
  const Tensor& y = results[0];
  y.backward(place(row.contains("grad") ? make_tensor(text(row["grad"]), y.shape(), y.dtype()) : default_weights(y)));
  std::size_t leaf = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined() || !inputs[i].requires_grad()) continue;
    check(fmt::format("gradient of input {}", i), inputs[i].grad(), text(row["gradients"][leaf++]), call.gradient);
  }
  return done;
}

}  // namespace

TEST_CASE("special values give PyTorch's results and gradients") {
  std::int64_t cases = 0, elements = 0;
  for (const json& row : grid().cases) {
    const std::string op = row["op"];
    for (const std::string dtype_name : row["dtypes"]) {
      ++cases;
      const DType dtype = dtype_name == "float32" ? DType::float32 : DType::float64;
      // Vector registers hold at most 16 elements; rotation takes each special through all their places and the tail.
      const bool flat = calls().at(op).elementwise && row["inputs"][0][0].size() == 1 &&
                        row["inputs"].back()[0] == row["inputs"][0][0];
      for (std::int64_t rotation = 0; rotation < (flat ? 16 : 1); ++rotation) {
        for (const Layout layout : {Layout::row_major, Layout::channels_last}) {
          const Run done = run(row, dtype, layout, rotation);
          elements += done.elements;
          if (!done.failure.empty()) {
            std::string inputs;
            for (const json& input : row["inputs"]) {
              if (!input.is_null())
                inputs += "\n  " + input[0].dump() + " " + grid().texts[input[1].get<std::size_t>()].get<std::string>();
            }
            FAIL_CHECK(op << row["attributes"].dump() << " in " << dtype_name << ", rotation " << rotation << ": "
                          << done.failure << inputs.substr(0, 1500));
            rotation = 16;
            break;
          }
        }
      }
    }
  }
  fmt::print("special_value_cases: {}\nspecial_value_elements: {}\n", cases, elements);
}

TEST_CASE("dropout multiplies by its mask") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    Values specials = {kNaN, kInf, -kInf, 0.0, -0.0, smallest_normal(dtype) / 8, -1.5};
    Values many;
    for (int i = 0; i < 20; ++i) many.insert(many.end(), specials.begin(), specials.end());
    const Tensor x = make(many).to(dtype);
    manual_seed(3);
    const Tensor mask = dropout(Tensor::ones(x.shape(), {.dtype = dtype}), 0.5);
    manual_seed(3);
    const Tensor y = dropout(x, 0.5);
    CHECK(std::isnan(values_of(y)[0] + values_of(y)[7]));
    CHECK(compare(y, mul(x, mask), {}, 0, true).empty());
  }
}

TEST_CASE("special values meet every op") {
  std::set<std::string> met;
  for (const json& row : grid().cases) {
    for (const std::string dtype : row["dtypes"]) met.insert(row["op"].get<std::string>() + " in " + dtype);
  }
  std::set<std::string> ops;
  for (const OpEntry& entry : op_registry()) ops.insert(entry.name);
  for (const auto& [op, call] : calls()) ops.insert(op);
  for (const std::string& op : ops) {
    CAPTURE(op);
    CHECK(met.count(op + " in float32") == 1);
    CHECK(met.count(op + " in float64") == 1);
  }
}
