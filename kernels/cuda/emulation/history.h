// Order between queued operations. Streams have numbers and count their operations; a clock says for each stream how
// many of its operations happened before. Operations that have run own intervals of time, which the cells of memory
// name.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace lockstep::emulation {

/// For each stream by number, how many of its operations are known to be before.
class Clock {
 public:
  std::uint64_t operator[](std::size_t stream) const { return stream < counts_.size() ? counts_[stream] : 0; }
  void set(std::size_t stream, std::uint64_t count) {
    if (stream >= counts_.size()) counts_.resize(stream + 1);
    counts_[stream] = count;
  }
  /// What either knows.
  void join(const Clock& other) {
    if (counts_.size() < other.counts_.size()) counts_.resize(other.counts_.size());
    for (std::size_t i = 0; i < other.counts_.size(); ++i) counts_[i] = std::max(counts_[i], other.counts_[i]);
  }
  /// What both know.
  void meet(const Clock& other) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] = std::min(counts_[i], other[i]);
  }

 private:
  std::vector<std::uint64_t> counts_;
};

/// An operation that ran.
struct PastOperation {
  std::uint64_t interval;  ///< its first
  std::size_t stream;
  std::uint64_t number;  ///< in its stream
  std::string name;      ///< "kernel add_kernel<float> on stream 2 of cuda:0"
};

/// The operations that ran and that something may still come without order to.
class History {
 public:
  /// A new interval of time, later than all before.
  std::uint64_t next_interval() { return ++interval_; }
  std::uint64_t interval() const { return interval_; }

  void add(PastOperation operation) { operations_.push_back(std::move(operation)); }
  /// The operation that owns `interval`, or null if it is forgotten.
  const PastOperation* find(std::uint64_t interval) const;
  /// The first interval of the first operation that `clock` does not know; UINT64_MAX if it knows all.
  std::uint64_t first_unknown(const Clock& clock) const;
  /// Forgets the oldest operations, as far as `clock` knows them.
  void forget(const Clock& clock);

 private:
  static bool knows(const Clock& clock, const PastOperation& o) { return o.number <= clock[o.stream]; }

  std::uint64_t interval_ = 0;
  std::deque<PastOperation> operations_;  // by interval
};

}  // namespace lockstep::emulation
