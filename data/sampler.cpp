#include <lockstep/data/sampler.h>

#include <numeric>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/data/draws.h>

namespace lockstep {

SequentialSampler::SequentialSampler(std::int64_t size) : size_(size) {
  LOCKSTEP_CHECK(size >= 0, ValueError, "SequentialSampler", "expected a size of 0 or more, got {}", size);
}

std::vector<std::int64_t> SequentialSampler::indices(std::int64_t) const {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size_));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return order;
}

RandomSampler::RandomSampler(std::int64_t size, std::uint64_t seed) : size_(size), seed_(seed) {
  LOCKSTEP_CHECK(size >= 0, ValueError, "RandomSampler", "expected a size of 0 or more, got {}", size);
}

std::vector<std::int64_t> RandomSampler::indices(std::int64_t epoch) const {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size_));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  PhiloxStream stream = draws({seed_, epoch, 0}, 0);
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[stream.next_below(left)]);
  return order;
}

}  // namespace lockstep
