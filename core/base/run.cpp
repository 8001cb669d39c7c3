#include <lockstep/core/base/run.h>

#include <algorithm>

#include <lockstep/core/base/check.h>

namespace lockstep {

Run part_of(std::int64_t n, std::int64_t parts, std::int64_t index) {
  LOCKSTEP_CHECK(n >= 0 && parts >= 1 && index >= 0 && index < parts, ValueError, "part_of",
                 "expected a part in [0, {}) of 0 or more, got part {} of {}", parts, index, n);
  const std::int64_t base = n / parts, longer = n % parts;
  const std::int64_t begin = index * base + std::min(index, longer);
  return {begin, begin + base + (index < longer ? 1 : 0)};
}

}  // namespace lockstep
