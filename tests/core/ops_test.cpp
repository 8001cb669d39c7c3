// What the op registry (tests/support/check_op.h) shows of every differentiable op.
#include <lockstep/core/ops.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include <fmt/core.h>
#include <catch2/catch.hpp>

#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

constexpr int kShownFailures = 5;

std::string text_of_ops_h() {
  std::ifstream file(std::filesystem::path(LOCKSTEP_TEST_DATA).parent_path().parent_path() / "core" / "ops.h");
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("Every differentiable op of core/ops.h is in the registry") {
  const std::string text = text_of_ops_h();

  const std::set<std::string> not_differentiable = {"argmax", "topk"};
  std::set<std::string> declared;
  const std::regex declaration(R"((?:^|\n)(?:Tensor|std::pair<Tensor, Tensor>) (\w+)\()");
  for (auto match = std::sregex_iterator(text.begin(), text.end(), declaration); match != std::sregex_iterator();
       ++match) {
    declared.insert((*match)[1]);
  }
  CHECK(declared.size() >= 35);  // that the expression matches at all

  std::set<std::string> registered;
  for (const OpEntry& entry : op_registry()) {
    CAPTURE(entry.name);
    CHECK(registered.insert(entry.name).second);
    CHECK(entry.misuse.size() >= 2);
    CHECK(entry.benchmarks);
  }
  for (const std::string& name : declared) {
    CAPTURE(name);
    CHECK(registered.count(name) + not_differentiable.count(name) == 1);
  }
  std::printf("registered_ops: %zu\n", registered.size());
}

TEST_CASE("core/ops.h states the accuracy that the registry holds the ops to") {
  const std::string text = text_of_ops_h();
  for (const OpEntry& entry : op_registry()) {
    const Tolerance& t = entry.tolerance;
    const std::string line =
        fmt::format("//   {:<19} {:<8} {:>4}  {:>4}   {}\n", entry.name,
                    t.scale == Tolerance::Scale::element ? "element" : "tensor", t.forward, t.gradient, t.reason);
    CHECK_THAT(text, Catch::Contains(line));
  }
}

TEST_CASE("Gradients agree with central differences") {
  std::size_t trusted = 0, mistrusted = 0, empty = 0;
  std::int64_t elements = 0;
  for (const OpEntry& entry : op_registry()) {
    std::set<std::string> checked;
    std::size_t zeros = 0;
    int failures = 0;
    for (const Sample& sample : samples_of(entry)) {
      const std::string what = describe(entry, sample);
      const GradientCheck check = check_gradients(sample);
      if (!check.failure.empty() && ++failures <= kShownFailures) {
        UNSCOPED_INFO(what << ": " << check.failure);
        CHECK(check.failure.empty());
      }
      elements += check.elements;
      if (check.elements == 0) {
        ++empty;
      } else if (10 * check.nonzero < check.elements) {
        ++zeros;
      } else {
        checked.insert(what);
      }
    }
    CAPTURE(entry.name, zeros, checked.size());
    CHECK(failures == 0);
    CHECK(checked.size() >= 12);
    CHECK(4 * zeros <= checked.size());
    trusted += checked.size();
    mistrusted += zeros;
  }
  std::printf("gradient_check_samples: %zu\ngradient_check_elements: %lld\n", trusted,
              static_cast<long long>(elements));
  std::printf("gradient_check_mistrusted_mostly_zero: %zu\ngradient_check_empty: %zu\n", mistrusted, empty);
  CHECK(trusted >= 3'000);
}

TEST_CASE("Float64 agrees with plain loops") {
  std::set<std::string> checked;
  for (const OpEntry& entry : op_registry()) {
    int failures = 0;
    for (const Sample& sample : samples_of(entry)) {
      const std::string what = describe(entry, sample);
      const std::string failure = check_reference(sample);
      if (!failure.empty() && ++failures <= kShownFailures) {
        UNSCOPED_INFO(what << ": " << failure);
        CHECK(failure.empty());
      }
      checked.insert(what);
    }
    CAPTURE(entry.name);
    CHECK(failures == 0);
  }
  std::printf("reference_samples: %zu\n", checked.size());
}

TEST_CASE("The bits depend on the number of threads only where the entry says so") {
  constexpr int kProblems = 12;
  int checked = 0;
  std::string dependent;
  for (const OpEntry& entry : op_registry()) {
    bool depends = false;
    for (int number = 0; number < kProblems; ++number) {
      const Sample sample = problem_of(entry, 2, number);
      CAPTURE(describe(entry, sample));
      const DeterminismCheck check = check_determinism(sample, entry.determinism);
      CHECK(check.failure == "");
      depends = depends || check.depends_on_threads;
      ++checked;
    }
    if (depends) dependent += " " + entry.name;
  }
  std::printf("determinism_problems: %d\nbits_depend_on_threads:%s\n", checked, dependent.c_str());
}

TEST_CASE("Float32 agrees with float64") {
  std::set<std::string> checked;
  double worst = 0.0;
  std::string worst_op;
  for (const OpEntry& entry : op_registry()) {
    int failures = 0;
    for (const Sample& sample : samples_of(entry)) {
      const std::string what = describe(entry, sample);
      const PrecisionCheck check = check_precision(sample, entry.tolerance);
      if (!check.failure.empty() && ++failures <= kShownFailures) {
        UNSCOPED_INFO(what << ": " << check.failure);
        CHECK(check.failure.empty());
      }
      checked.insert(what);
      if (check.worst > worst) {
        worst = check.worst;
        worst_op = entry.name;
      }
    }
    CAPTURE(entry.name);
    CHECK(failures == 0);
  }
  std::printf("float32_samples: %zu\n", checked.size());
  std::printf("float32_worst_error_over_bound: %.2f (%s)\n", worst, worst_op.c_str());
}

}  // namespace
