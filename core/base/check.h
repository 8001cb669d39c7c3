// Precondition checks with formatted messages. Internal: not installed, since it includes fmt.
#pragma once

#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wstringop-overflow"  // GCC 12 misreads fmt 9's parser
#endif
#include <fmt/core.h>
#include <fmt/ranges.h>
#pragma GCC diagnostic pop

#include <lockstep/core/base/error.h>

namespace lockstep::detail {

template <class E, class... Args>
[[noreturn, gnu::noinline, gnu::cold]] void fail(const char* op, fmt::format_string<Args...> format, Args&&... args) {
  throw E(op, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace lockstep::detail

/// Throws `ErrorType("[op] formatted message")` unless `condition` holds. The message is only formatted on failure.
#define LOCKSTEP_CHECK(condition, ErrorType, op, ...)                   \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      ::lockstep::detail::fail<::lockstep::ErrorType>(op, __VA_ARGS__); \
  } while (false)
