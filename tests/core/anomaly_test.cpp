// Compiled with -g1 (tests/CMakeLists.txt), so that files and lines are known in every preset.
#include <lockstep/core/autograd/anomaly.h>

#include <exception>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/autograd/node.h>
#include <lockstep/core/ops.h>

using namespace lockstep;
using Catch::Contains;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

Tensor leaf(const std::vector<double>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())}).set_requires_grad();
}

/// What the AnomalyError says that `run` must throw.
std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const AnomalyError& error) {
    return error.what();
  }
  FAIL("expected an AnomalyError");
  return {};
}

// "\n  ... function(...) (.../anomaly_test.cpp:line)"; a single line, so that __LINE__ is that of the call.
#define AT(function, line) \
  Contains("(anonymous namespace)::" function "(") && Contains("anomaly_test.cpp:" + std::to_string(line) + ")")

// Functions that ops are called in. Nothing may be a tail call, which would leave no trace.

constexpr int kLogLine = __LINE__ + 2;
[[gnu::noinline]] Tensor takes_a_log(const Tensor& x) {
  const Tensor y = log(x);
  return y * 1.0;
}

constexpr int kSqrtLine = __LINE__ + 2;
[[gnu::noinline]] Tensor takes_a_root(const Tensor& x) {
  const Tensor y = sqrt(x);
  return y * 1.0;
}

/// An op that knows no answer in backward.
constexpr int kRefusesLine = __LINE__ + 3;
[[gnu::noinline]] Tensor refuses(const Tensor& x) {
  Tensor y = x.detach().clone();
  record("refuses", y, {&x}, [](GradContext&) { throw std::out_of_range("no gradient today"); });
  return y;
}

TEST_CASE("The first op that makes a NaN is named among many, with the functions that called it") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({-1, 4, -9});
  const std::string message = message_of([&] { relu(exp(takes_a_log(x * 2.0 + 1.0) * 3.0)); });
  CHECK_THAT(message, Catch::StartsWith("[log] ") && Contains("2 NaN among 3 elements of shape [3]"));
  CHECK_THAT(message, AT("takes_a_log", kLogLine));
  // Innermost first, and nothing of the library's own.
  const std::size_t inner = message.find("takes_a_log");
  CHECK(message.find("\n  ") < inner);
  CHECK(message.find("anomaly_test.cpp", inner) < message.find("\n", inner));
  CHECK(message.find("anomaly_test.cpp", message.find("\n", inner)) != std::string::npos);  // the test case itself
  CHECK(message.find("core/ops") == std::string::npos);
  CHECK(message.find("std::") == message.find("std::function"));
}

TEST_CASE("Every way to make a NaN is seen") {
  const AnomalyMode anomaly;
  const Tensor infinite = leaf({kInf, 1}), zero = leaf({0, 0}), negative = leaf({-1, 2});
  const std::vector<std::pair<const char*, std::function<void()>>> ways = {
      {"sub", [&] { infinite - infinite; }},
      {"add", [&] { infinite + infinite.detach() * -1.0; }},
      {"mul", [&] { zero* infinite; }},
      {"div", [&] { zero / zero; }},
      {"sqrt", [&] { sqrt(negative); }},
      {"log", [&] { log(negative.detach().to(DType::float32)); }},
      {"affine", [&] { infinite * 0.0; }},
      {"matmul",
       [&] {
         matmul(reshape(infinite, {1, 2}), reshape(zero, {2, 1}));
       }},
      {"softmax", [&] { softmax(infinite, 0); }},
      {"sum", [&] {
         sum(infinite * Tensor::from(std::vector<double>{1, -kInf}, {2}));
       }}};
  for (const auto& [op, run] : ways) {
    CAPTURE(op);
    CHECK_THAT(message_of(run), Catch::StartsWith(std::string("[") + op + "] "));
  }
}

TEST_CASE("Ops that are not recorded are watched as well") {
  const AnomalyMode anomaly;
  const Tensor x = Tensor::from(std::vector<double>{-1}, {1});
  CHECK_THAT(message_of([&] { takes_a_log(x); }), AT("takes_a_log", kLogLine));
  const Tensor parameter = leaf({-1});
  const NoGradGuard no_grad;
  CHECK_THROWS_AS(log(parameter), AnomalyError);
  const Tensor y = parameter * 2.0;
  CHECK_FALSE(y.requires_grad());
  const Tensor z = Tensor::ones({2}) * 2.0;
  CHECK_FALSE(z.requires_grad());
  CHECK((Tensor::arange(3).clone().dtype() == DType::int64));
}

TEST_CASE("A NaN that comes in is blamed on no forward, and on the first backward that it spoils") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({kNan, 1}), w = leaf({2, 3});
  const Tensor sums = sum(x + w);  // whose gradients hold no x
  CHECK_NOTHROW(sums.backward());
  CHECK(w.grad().to_vector<double>() == std::vector<double>{1, 1});
  const Tensor loss = sum(exp(x * w) + w);
  const std::string message = message_of([&] { loss.backward(); });
  CHECK_THAT(message, Catch::StartsWith("[exp] ") && Contains("1 NaN among 2 elements of the gradient of input 0") &&
                          Contains("its result in forward had NaN already"));
}

TEST_CASE("An undefined gradient in backward names the op that recorded it: a root at zero") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({0, 4});
  // The slope of the root is infinite at 0, what comes before has slope 0: inf·0.
  const Tensor loss = sum(takes_a_root(x * 0.0 + x * 0.0) * 2.0);
  const std::string message = message_of([&] { loss.backward(); });
  CHECK_THAT(message, Catch::StartsWith("[affine] "));
  CHECK_THAT(message, Contains("gradients without NaN") && !Contains("had NaN already"));
  const Tensor other = sum(takes_a_root(x) * Tensor::zeros({2}, {.dtype = DType::float64}));
  const std::string at_root = message_of([&] { other.backward(); });
  CHECK_THAT(at_root, Catch::StartsWith("[sqrt] ") && AT("takes_a_root", kSqrtLine));
  CHECK_FALSE(x.grad().defined());  // no NaN was delivered
}

TEST_CASE("Gradients that make a NaN only in their sum are found") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({0}), y = x * 1.0;
  for (const Tensor& shared : {x, y}) {
    const Tensor loss = sum(sqrt(shared) - sqrt(shared));
    const std::string message = message_of([&] { loss.backward(); });
    CHECK_THAT(message, Catch::StartsWith("[sqrt] ") && Contains("adds up"));
    x.set_grad({});
  }
}

TEST_CASE("A gradient that starts with NaN is nobody's fault") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({1});
  const Tensor y = exp(x * 2.0);
  CHECK_NOTHROW(y.backward(Tensor::full({1}, kNan, {.dtype = DType::float64})));
}

TEST_CASE("An exception out of a backward function names what recorded it, and is nested") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({1, 2});
  const Tensor loss = sum(exp(refuses(x * 2.0)));
  try {
    loss.backward();
    FAIL("expected an AnomalyError");
  } catch (const AutogradError& error) {
    CHECK(error.op() == "refuses");
    CHECK_THAT(error.what(),
               Catch::StartsWith("[refuses] ") && Contains("no gradient today") && AT("refuses", kRefusesLine));
    CHECK_THROWS_AS(std::rethrow_if_nested(error), std::out_of_range);
  }
}

TEST_CASE("A saved tensor changed in place names what saved it") {
  const AnomalyMode anomaly;
  Tensor x = leaf({1, 4});
  const Tensor loss = sum(takes_a_log(x));
  {
    const NoGradGuard no_grad;
    x.mul_(2.0);
  }
  CHECK_THAT(message_of([&] { loss.backward(); }),
             Catch::StartsWith("[log] ") && Contains("modified in place") && AT("takes_a_log", kLogLine));
}

TEST_CASE("A second backward names where the tape was recorded, though the mode is over") {
  const auto recorded = [] {
    const AnomalyMode anomaly;
    return takes_a_log(leaf({1}));
  };
  const Tensor y = recorded();
  y.backward();
  CHECK_THROWS_WITH(y.backward(), Contains("not used yet") && Contains("takes_a_log") && Contains("anomaly_test.cpp"));
  const Tensor z = takes_a_log(leaf({1}));
  z.backward();
  CHECK_THROWS_WITH(z.backward(), Contains("not used yet") && !Contains("called by"));
}

TEST_CASE("Switched on for backward only, the op is named without a place") {
  const Tensor x = leaf({0});
  const Tensor loss = sum(takes_a_root(x) * Tensor::zeros({1}, {.dtype = DType::float64}));
  const AnomalyMode anomaly;
  CHECK_THAT(message_of([&] { loss.backward(); }), Catch::StartsWith("[sqrt] ") && !Contains("called by"));
}

TEST_CASE("Off, NaN flow and exceptions stay what they are") {
  const Tensor x = leaf({-1});
  CHECK_NOTHROW(sum(log(x)).backward());
  CHECK_THROWS_AS(refuses(x).backward(), std::out_of_range);
}

TEST_CASE("The mode nests, is restored by exceptions, and is a matter of the thread") {
  CHECK_FALSE(anomaly_enabled());
  {
    const AnomalyMode outer;
    {
      const AnomalyMode off(false);
      CHECK_FALSE(anomaly_enabled());
      CHECK_NOTHROW(log(leaf({-1})));
      const AnomalyMode inner;
      CHECK(anomaly_enabled());
    }
    CHECK(anomaly_enabled());
    CHECK_THROWS_AS(log(leaf({-1})), AnomalyError);
    bool elsewhere = true;
    std::thread([&] {
      elsewhere = anomaly_enabled();
      log(leaf({-1}));
    }).join();
    CHECK_FALSE(elsewhere);
    CHECK_THROWS_AS(refuses(leaf({1})).backward(), AnomalyError);
    CHECK(anomaly_enabled());
  }
  CHECK_FALSE(anomaly_enabled());
  CHECK_THROWS_AS(
      [] {
        const AnomalyMode anomaly;
        log(leaf({-1}));
      }(),
      AnomalyError);
  CHECK_FALSE(anomaly_enabled());
}

TEST_CASE("After an error everything is usable, and gradients are those without the mode") {
  const AnomalyMode anomaly;
  const Tensor x = leaf({0, 4}), y = x * 3.0;
  const Tensor bad = sum(takes_a_root(y) * Tensor::zeros({2}, {.dtype = DType::float64}) + y);
  CHECK_THROWS_AS(bad.backward({}, true), AnomalyError);
  CHECK_THROWS_AS(bad.backward({}, true), AnomalyError);
  CHECK(grad_enabled());
  CHECK_FALSE(x.grad().defined());
  sum(y * y).backward({}, true);
  CHECK(x.grad().to_vector<double>() == std::vector<double>{0, 72});
}

TEST_CASE("Threads find their own anomalies side by side") {
  std::vector<std::string> messages(4);
  std::vector<std::thread> threads;
  for (std::string& message : messages) {
    threads.emplace_back([&message] {
      const AnomalyMode anomaly;
      for (int i = 0; i < 20; ++i) {
        try {
          takes_a_log(leaf({-1}));
        } catch (const AnomalyError& error) {
          message = error.what();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& message : messages) CHECK_THAT(message, AT("takes_a_log", kLogLine));
}

}  // namespace
