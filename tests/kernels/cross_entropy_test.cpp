#include <lockstep/kernels/cross_entropy.h>

#include <algorithm>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr std::int64_t kIgnore = -100;

/// Loss and gradient of one row from the definition, for target weights t (not necessarily of sum 1).
template <class T>
double plain_row(const T* x, std::int64_t classes, const std::vector<double>& t, double grad_loss, double* grad) {
  const auto max = static_cast<double>(*std::max_element(x, x + classes));
  double sum = 0, mass = 0, loss = 0;
  for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(x[c]) - max);
  for (std::int64_t c = 0; c < classes; ++c) {
    const double weight = t[static_cast<std::size_t>(c)];
    mass += weight;
    loss -= weight * (static_cast<double>(x[c]) - max - std::log(sum));
  }
  for (std::int64_t c = 0; c < classes; ++c) {
    grad[c] = grad_loss * (std::exp(static_cast<double>(x[c]) - max) / sum * mass - t[static_cast<std::size_t>(c)]);
  }
  return loss;
}

template <class T>
std::vector<T> index_loss(std::int64_t classes, const std::vector<T>& x, const std::vector<std::int64_t>& target,
                          T smoothing = 0) {
  return on_any_threads([&] {
    std::vector<T> loss(target.size());
    kernels::cross_entropy_forward<T>(kOnCpu, static_cast<std::int64_t>(target.size()), classes, x.data(),
                                      target.data(), kIgnore, smoothing, loss.data());
    return loss;
  });
}

template <class T>
std::vector<T> index_grad(std::int64_t classes, const std::vector<T>& x, const std::vector<std::int64_t>& target,
                          const std::vector<T>& grad_loss, T smoothing = 0) {
  return on_any_threads([&] {
    std::vector<T> grad = x;  // in place
    kernels::cross_entropy_backward<T>(kOnCpu, static_cast<std::int64_t>(target.size()), classes, grad.data(),
                                       target.data(), kIgnore, smoothing, grad_loss.data(), grad.data());
    return grad;
  });
}

constexpr std::pair<std::int64_t, std::int64_t> kSizes[] = {{0, 3},  {1, 1},  {3, 2},    {128, 10}, {5, 15},
                                                            {6, 16}, {4, 17}, {3, 1000}, {2000, 10}};

}  // namespace

TEMPLATE_TEST_CASE("cross-entropy with class indices", "", float, double) {
  using T = TestType;
  for (const auto& [rows, classes] : kSizes) {
    for (const double smoothing : {0.0, 0.1}) {
      CAPTURE(rows, classes, smoothing);
      const auto x = random_values<T>(rows * classes, -8, 8), grad_loss = random_values<T>(rows, -1, 1, 1);
      std::vector<std::int64_t> target;
      std::vector<double> loss, grad(x.size());
      for (std::int64_t row = 0; row < rows; ++row) {
        const bool ignored = row % 5 == 2;
        target.push_back(ignored ? kIgnore : row * 7 % classes);
        if (ignored) {
          loss.push_back(0);
          continue;
        }
        std::vector<double> t(static_cast<std::size_t>(classes), smoothing / static_cast<double>(classes));
        t[static_cast<std::size_t>(target.back())] += 1 - smoothing;
        loss.push_back(plain_row(x.data() + row * classes, classes, t,
                                 static_cast<double>(grad_loss[static_cast<std::size_t>(row)]),
                                 grad.data() + row * classes));
      }
      CHECK(close(index_loss(classes, x, target, static_cast<T>(smoothing)), loss, rounding<T>(8)));
      CHECK(close(index_grad(classes, x, target, grad_loss, static_cast<T>(smoothing)), grad, rounding<T>(8)));
    }
  }
}

TEMPLATE_TEST_CASE("cross-entropy with probabilities", "", float, double) {
  using T = TestType;
  for (const auto& [rows, classes] : kSizes) {
    for (const double smoothing : {0.0, 0.2}) {
      CAPTURE(rows, classes, smoothing);
      const auto x = random_values<T>(rows * classes, -8, 8), grad_loss = random_values<T>(rows, -1, 1, 1);
      const auto target = random_values<T>(rows * classes, 0, 2.0 / static_cast<double>(classes), 2);
      std::vector<double> loss, grad(x.size());
      for (std::int64_t row = 0; row < rows; ++row) {
        std::vector<double> t;
        for (std::int64_t c = 0; c < classes; ++c) {
          t.push_back((1 - smoothing) * static_cast<double>(target[static_cast<std::size_t>(row * classes + c)]) +
                      smoothing / static_cast<double>(classes));
        }
        loss.push_back(plain_row(x.data() + row * classes, classes, t,
                                 static_cast<double>(grad_loss[static_cast<std::size_t>(row)]),
                                 grad.data() + row * classes));
      }
      const auto s = static_cast<T>(smoothing);
      const auto actual = on_any_threads([&, rows = rows, classes = classes] {
        std::vector<T> out(static_cast<std::size_t>(rows));
        kernels::cross_entropy_probabilities_forward<T>(kOnCpu, rows, classes, x.data(), target.data(), s, out.data());
        return out;
      });
      CHECK(close(actual, loss, rounding<T>(16)));
      const auto actual_grad = on_any_threads([&, rows = rows, classes = classes] {
        std::vector<T> out = x;  // in place
        kernels::cross_entropy_probabilities_backward<T>(kOnCpu, rows, classes, out.data(), target.data(), s,
                                                         grad_loss.data(), out.data());
        return out;
      });
      CHECK(close(actual_grad, grad, rounding<T>(16)));
    }
  }
}

TEMPLATE_TEST_CASE("cross-entropy of huge and infinite logits", "", float, double) {
  using T = TestType;
  const std::vector<T> g(1, T(1));
  for (const std::int64_t classes : {3, 40}) {
    CAPTURE(classes);
    const auto n = static_cast<std::size_t>(classes);
    std::vector<T> x(n, T(1e30));
    CHECK(index_loss(classes, x, {1})[0] == Approx(std::log(static_cast<double>(classes))).epsilon(1e-6));
    CHECK(index_grad(classes, x, {1}, g)[0] == Approx(1.0 / static_cast<double>(classes)).epsilon(1e-6));
    x[0] = T(-1e30);
    x[2] = -kInf<T>;
    CHECK(std::isfinite(index_loss(classes, x, {1})[0]));
    CHECK(index_grad(classes, x, {1}, g)[2] == 0);
    CHECK(index_loss(classes, x, {0})[0] == Approx(2e30));
    CHECK(index_loss(classes, x, {2})[0] == kInf<T>);
    CHECK(index_grad(classes, x, {2}, g)[2] == -1);

    std::vector<T> probabilities(n, T(0));
    probabilities[1] = 1;  // nothing on the class whose logit is −inf
    T loss = 0;
    kernels::cross_entropy_probabilities_forward<T>(kOnCpu, 1, classes, x.data(), probabilities.data(), T(0), &loss);
    CHECK(loss == Approx(std::log(static_cast<double>(classes - 2))).margin(1e-6));

    x[0] = kNaN<T>;
    CHECK(std::isnan(index_loss(classes, x, {1})[0]));
    kernels::cross_entropy_probabilities_forward<T>(kOnCpu, 1, classes, x.data(), probabilities.data(), T(0), &loss);
    CHECK(std::isnan(loss));
    CHECK(index_loss(classes, x, {kIgnore})[0] == 0);
    CHECK(index_grad(classes, x, {kIgnore}, g) == std::vector<T>(n, T(0)));
  }
}

TEST_CASE("a nearly certain float prediction keeps a loss above zero") {
  // −log(1 / (1 + e^-20)): what is left of the sum after rounding to float is 2e-9 relative; logits stay moderate here.
  const auto loss = index_loss<float>(2, {0.0f, -10.0f}, {0});
  CHECK(loss[0] == Approx(std::log1p(std::exp(-10.0))).epsilon(2e-3));
}
