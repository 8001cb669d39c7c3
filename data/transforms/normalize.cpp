#include <lockstep/data/transforms/normalize.h>

#include <cmath>
#include <utility>

#include <lockstep/core/base/check.h>

namespace lockstep {
namespace {

/// A tuple of floats as Python prints it: "(0.5, 1.0)", "(0.5,)".
std::string python_tuple(const std::vector<double>& values) {
  std::string text = "(";
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::string digits = fmt::format("{}", values[i]);
    if (digits.find_first_of(".en") == std::string::npos) digits += ".0";
    text += (i ? ", " : "") + digits;
  }
  return text + (values.size() == 1 ? ",)" : ")");
}

}  // namespace

Normalize::Normalize(std::vector<double> mean, std::vector<double> std) : mean_(std::move(mean)), std_(std::move(std)) {
  LOCKSTEP_CHECK(!mean_.empty() && mean_.size() == std_.size(), ValueError, "Normalize",
                 "expected as many means as stds, one or more, got {} and {}", mean_.size(), std_.size());
  for (const double value : std_) {
    LOCKSTEP_CHECK(std::isfinite(value) && static_cast<float>(value) != 0.0f, ValueError, "Normalize",
                   "expected every std to be finite and not 0, got {}", value);
  }
}

std::string Normalize::repr() const {
  return "Normalize(mean=" + python_tuple(mean_) + ", std=" + python_tuple(std_) + ")";
}

}  // namespace lockstep
