#include <lockstep/kernels/cross_entropy.h>

#include <cmath>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr std::int64_t kIgnore = -100;

struct Sizes {
  std::int64_t rows, classes;
};
constexpr Sizes kSizes[] = {{0, 10},   {3, 1},    {5, 10},   {33, 31},  {9, 32},     {4, 257},    {2, 1000},  {2, 1024},
                            {3, 1025}, {3, 1032}, {2, 4200}, {2, 8200}, {1, 12'289}, {2, 24'584}, {1, 26'001}};

std::vector<std::int64_t> random_targets(const Sizes& s) {
  PhiloxStream draws(5, 0);
  std::vector<std::int64_t> targets;
  for (std::int64_t row = 0; row < s.rows; ++row) {
    targets.push_back(
        row % 4 == 3 ? kIgnore : static_cast<std::int64_t>(draws.next_below(static_cast<std::uint64_t>(s.classes))));
  }
  if (!targets.empty()) targets[0] = s.classes - 1;
  return targets;
}

double steps(const Sizes& s) { return 24.0 + static_cast<double>(s.classes) / 32; }

}  // namespace

TEMPLATE_TEST_CASE("CUDA cross_entropy of indices agrees with the CPU's in double", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const Sizes& s : kSizes) {
    for (const float smoothing : {0.0f, 0.1f}) {
      std::vector<float> first;
      std::vector<T> first_grad;
      for (const std::int64_t offset : {0, 1}) {
        CAPTURE(s.rows, s.classes, smoothing, offset);
        const auto x = random_elements<T>(s.rows * s.classes, -6, 6);
        const auto g = random_values<float>(s.rows, -1, 1, 1);
        const auto t = random_targets(s);
        const auto x_here = converted<double>(x), g_here = converted<double>(g);
        const DeviceBuffer<T> logits(x, offset), grad(logits.size(), offset);
        const DeviceBuffer<std::int64_t> target(t);
        const DeviceBuffer<float> loss(s.rows), grad_loss(g);
        kernels::cross_entropy_forward<T>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(), kIgnore,
                                          smoothing, loss.data());
        std::vector<double> expected(static_cast<std::size_t>(s.rows));
        kernels::cross_entropy_forward<double>(kOnCpu, s.rows, s.classes, x_here.data(), t.data(), kIgnore,
                                               static_cast<double>(smoothing), expected.data());
        const auto losses = loss.download();
        CHECK(close_to(losses, expected, error_bound<float>(steps(s))));

        kernels::cross_entropy_backward<T>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(), kIgnore,
                                           smoothing, grad_loss.data(), grad.data());
        std::vector<double> expected_grad(x.size());
        kernels::cross_entropy_backward<double>(kOnCpu, s.rows, s.classes, x_here.data(), t.data(), kIgnore,
                                                static_cast<double>(smoothing), g_here.data(), expected_grad.data());
        const auto result = grad.download();
        CHECK(close_to(result, expected_grad, error_bound<T>(steps(s))));
        // Small gradients too are right relatively: softmax alone, where there is no smoothing.
        if (smoothing == 0.0f && sizeof(T) == 4) {
          const auto wide = converted<double>(result);
          for (std::size_t i = 0; i < wide.size(); ++i)
            REQUIRE(std::fabs(wide[i] - expected_grad[i]) <=
                    1e-4 * std::fabs(expected_grad[i]) +
                        1e-6 * (expected_grad[i] != 0.0 && static_cast<std::int64_t>(i) % s.classes ==
                                                               t[i / static_cast<std::size_t>(s.classes)]
                                    ? 1.0
                                    : 0.0));
        }
        kernels::cross_entropy_backward<T>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(), kIgnore,
                                           smoothing, grad_loss.data(), logits.data());
        CHECK(same_bits(logits.download(), result));
        if (offset == 0) {
          first = losses;
          first_grad = result;
        } else {
          CHECK(same_bits(losses, first));
          CHECK(same_bits(result, first_grad));
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("CUDA cross_entropy of probabilities agrees with the CPU's in double", "", float, float16,
                   bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const Sizes& s : kSizes) {
    for (const float smoothing : {0.0f, 0.1f}) {
      for (const std::int64_t offset : {0, 1}) {
        CAPTURE(s.rows, s.classes, smoothing, offset);
        auto wide_x = random_values<float>(s.rows * s.classes, -6, 6);
        auto wide_t = random_values<float>(s.rows * s.classes, 0, 2 / static_cast<double>(s.classes), 2);
        if (smoothing == 0.0f && s.classes > 3) {  // a class of probability 0 at −inf adds nothing
          for (std::size_t row = 0; row < static_cast<std::size_t>(s.rows); ++row) {
            wide_t[row * static_cast<std::size_t>(s.classes) + 2] = 0.0f;
            wide_x[row * static_cast<std::size_t>(s.classes) + 2] = -kInf<float>;
            wide_t[row * static_cast<std::size_t>(s.classes) + 1] = 0.0f;  // nor does it at the largest logit
            wide_x[row * static_cast<std::size_t>(s.classes) + 1] = 6.5f;
          }
        }
        const auto x = converted<T>(wide_x), t = converted<T>(wide_t);
        const auto g = random_values<float>(s.rows, -1, 1, 1);
        const auto x_here = converted<double>(x), t_here = converted<double>(t), g_here = converted<double>(g);
        const DeviceBuffer<T> logits(x, offset), target(t, offset), grad(logits.size(), offset);
        const DeviceBuffer<float> loss(s.rows), grad_loss(g);
        kernels::cross_entropy_probabilities_forward<T>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(),
                                                        smoothing, loss.data());
        std::vector<double> expected(static_cast<std::size_t>(s.rows)), expected_grad(x.size());
        kernels::cross_entropy_probabilities_forward<double>(kOnCpu, s.rows, s.classes, x_here.data(), t_here.data(),
                                                             static_cast<double>(smoothing), expected.data());
        CHECK(close_to(loss.download(), expected, error_bound<float>(steps(s))));
        kernels::cross_entropy_probabilities_backward<T>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(),
                                                         smoothing, grad_loss.data(), grad.data());
        kernels::cross_entropy_probabilities_backward<double>(kOnCpu, s.rows, s.classes, x_here.data(), t_here.data(),
                                                              static_cast<double>(smoothing), g_here.data(),
                                                              expected_grad.data());
        const auto result = grad.download();
        CHECK(close_to(result, expected_grad, error_bound<T>(steps(s))));
        kernels::cross_entropy_probabilities_backward<T>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(),
                                                         smoothing, grad_loss.data(), logits.data());
        CHECK(same_bits(logits.download(), result));
      }
    }
  }
}

TEST_CASE("CUDA cross_entropy makes rows with a target out of range NaN, and no other") {
  if (!have_cuda()) return;
  for (const std::int64_t classes : {10, 1500, 9001, 26'001}) {
    CAPTURE(classes);
    const std::int64_t rows = 5;
    const auto x = random_values<float>(rows * classes, -2, 2);
    const DeviceBuffer<float> logits(x), loss(rows), grad_loss(std::vector<float>(5, 1.0f)), grad(rows * classes);
    const DeviceBuffer<std::int64_t> target(std::vector<std::int64_t>{0, classes, -1, kIgnore, classes - 1});
    kernels::cross_entropy_forward<float>(cuda_stream(), rows, classes, logits.data(), target.data(), kIgnore, 0.0f,
                                          loss.data());
    kernels::cross_entropy_backward<float>(cuda_stream(), rows, classes, logits.data(), target.data(), kIgnore, 0.0f,
                                           grad_loss.data(), grad.data());
    const auto losses = loss.download(), gradient = grad.download();
    for (std::int64_t row = 0; row < rows; ++row) {
      const bool bad = row == 1 || row == 2;
      CHECK(std::isnan(losses[static_cast<std::size_t>(row)]) == bad);
      for (std::int64_t c = 0; c < classes; ++c) {
        const float v = gradient[static_cast<std::size_t>(row * classes + c)];
        REQUIRE(std::isnan(v) == bad);
        if (row == 3) REQUIRE(v == 0.0f);
      }
    }
    CHECK(losses[3] == 0.0f);
  }
}

TEST_CASE("CUDA cross_entropy of huge, infinite and NaN logits is the CPU's") {
  if (!have_cuda()) return;
  for (const std::int64_t n : {10, 1500, 26'001}) {
    std::vector<float> x;
    for (const float special : {1e30f, -1e30f, kInf<float>, -kInf<float>, kNaN<float>}) {
      auto row = random_values<float>(n, -2, 2);
      row[static_cast<std::size_t>(n - 3)] = special;
      x.insert(x.end(), row.begin(), row.end());
    }
    // The running maximum rises at every value, and from -inf.
    for (std::int64_t i = 0; i < n; ++i) x.push_back(static_cast<float>(i) * 40.0f / static_cast<float>(n));
    for (std::int64_t i = 0; i < n; ++i) x.push_back(i < n / 2 && i != 1 ? -kInf<float> : 0.5f);
    const std::int64_t rows = 7;
    const std::vector<std::int64_t> t(rows, 1);
    for (const float smoothing : {0.0f, 0.1f}) {
      CAPTURE(n, smoothing);
      const DeviceBuffer<float> logits(x), loss(rows);
      const DeviceBuffer<std::int64_t> target(t);
      kernels::cross_entropy_forward<float>(cuda_stream(), rows, n, logits.data(), target.data(), kIgnore, smoothing,
                                            loss.data());
      std::vector<double> expected(rows);
      kernels::cross_entropy_forward<double>(kOnCpu, rows, n, converted<double>(x).data(), t.data(), kIgnore,
                                             static_cast<double>(smoothing), expected.data());
      CHECK(close_to(loss.download(), expected, 1e-5));
    }
  }
}

TEST_CASE("CUDA cross_entropy_inverse_count counts the rows that are not ignored") {
  if (!have_cuda()) return;
  for (const std::int64_t rows : {0, 1, 31, 1023, 1024, 1025, 5000}) {
    std::vector<std::int64_t> t(static_cast<std::size_t>(rows), 3);
    for (std::size_t i = 0; i < t.size(); i += 3) t[i] = kIgnore;
    const DeviceBuffer<std::int64_t> target(t);
    const DeviceBuffer<float> out(1);
    kernels::cross_entropy_inverse_count<float>(cuda_stream(), rows, target.data(), kIgnore, out.data());
    float expected = 0;
    kernels::cross_entropy_inverse_count<float>(kOnCpu, rows, t.data(), kIgnore, &expected);
    CHECK(out.download()[0] == expected);
  }
}

TEST_CASE("CUDA cross_entropy loops over more rows than there are blocks") {
  if (!have_cuda()) return;
  for (const Sizes& s : {Sizes{4100, 1032}, {32'900, 3}}) {
    CAPTURE(s.rows, s.classes);
    const auto x = random_values<float>(s.rows * s.classes, -2, 2), g = random_values<float>(s.rows, -1, 1, 1);
    const auto t = random_targets(s);
    const DeviceBuffer<float> logits(x), loss(s.rows), grad_loss(g), grad(logits.size());
    const DeviceBuffer<std::int64_t> target(t);
    std::vector<float> expected(static_cast<std::size_t>(s.rows)), expected_grad(x.size());
    kernels::cross_entropy_forward<float>(kOnCpu, s.rows, s.classes, x.data(), t.data(), kIgnore, 0.1f,
                                          expected.data());
    kernels::cross_entropy_forward<float>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(), kIgnore, 0.1f,
                                          loss.data());
    CHECK(close(loss.download(), expected, 1e-5));
    kernels::cross_entropy_backward<float>(kOnCpu, s.rows, s.classes, x.data(), t.data(), kIgnore, 0.1f, g.data(),
                                           expected_grad.data());
    kernels::cross_entropy_backward<float>(cuda_stream(), s.rows, s.classes, logits.data(), target.data(), kIgnore,
                                           0.1f, grad_loss.data(), grad.data());
    CHECK(close(grad.download(), expected_grad, 1e-5));
  }
}
