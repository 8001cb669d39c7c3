// Numbers and truth values as Python prints them. Internal: not installed, since it includes fmt.
#pragma once

#include <string>

#include <fmt/core.h>

namespace lockstep::detail {

inline const char* python_repr(bool value) { return value ? "True" : "False"; }

/// The shortest text that reads back as the same number, with a point or an exponent: "1e-05", "1.0".
inline std::string python_repr(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

}  // namespace lockstep::detail
