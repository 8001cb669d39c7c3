// The order in which an epoch visits a data set.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

/// Which examples each epoch visits, and in which order. To make your own, implement size() and indices(); both may be
/// called from several threads at once.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// How many indices an epoch has.
  virtual std::int64_t size() const = 0;
  /// The indices that epoch `epoch` visits, in order: a function of the epoch and the sampler's settings, not of calls
  /// made before. So any epoch can be resumed at any position.
  virtual std::vector<std::int64_t> indices(std::int64_t epoch) const = 0;
};

/// 0, 1, …, size − 1 in every epoch.
class SequentialSampler : public Sampler {
 public:
  /// Throws ValueError for a negative size.
  explicit SequentialSampler(std::int64_t size);
  std::int64_t size() const override { return size_; }
  std::vector<std::int64_t> indices(std::int64_t epoch) const override;

 private:
  std::int64_t size_;
};

/// Every epoch another permutation, a function of (size, seed, epoch): Fisher–Yates with draws from Philox.
class RandomSampler : public Sampler {
 public:
  /// Throws ValueError for a negative size.
  RandomSampler(std::int64_t size, std::uint64_t seed);
  std::int64_t size() const override { return size_; }
  std::vector<std::int64_t> indices(std::int64_t epoch) const override;

 private:
  std::int64_t size_;
  std::uint64_t seed_;
};

}  // namespace lockstep
