#include <lockstep/kernels/cuda/emulation/history.h>

namespace lockstep::emulation {

const PastOperation* History::find(std::uint64_t interval) const {
  const auto next = std::upper_bound(operations_.begin(), operations_.end(), interval,
                                     [](std::uint64_t i, const PastOperation& o) { return i < o.interval; });
  return next == operations_.begin() ? nullptr : &*std::prev(next);
}

std::uint64_t History::first_unknown(const Clock& clock) const {
  for (const PastOperation& o : operations_) {
    if (!knows(clock, o)) return o.interval;
  }
  return UINT64_MAX;
}

void History::forget(const Clock& clock) {
  while (!operations_.empty() && knows(clock, operations_.front())) operations_.pop_front();
}

}  // namespace lockstep::emulation
