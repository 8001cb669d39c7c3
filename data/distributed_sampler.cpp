#include <lockstep/data/distributed_sampler.h>

#include <algorithm>

#include <lockstep/core/base/check.h>

namespace lockstep {

DistributedSampler::DistributedSampler(std::int64_t size, std::int64_t global_batch_size,
                                       DistributedSamplerOptions options)
    : size_(size), global_batch_size_(global_batch_size), options_(options) {
  LOCKSTEP_CHECK(size >= 0 && global_batch_size >= 1, ValueError, "DistributedSampler",
                 "expected a size of 0 or more and a batch of 1 or more, got {} and {}", size, global_batch_size);
  const std::int64_t replicas = options.num_replicas, ranks = options.num_ranks.value_or(replicas);
  LOCKSTEP_CHECK(ranks >= 1 && ranks <= replicas, ValueError, "DistributedSampler",
                 "expected at least one rank and at most one for each of {} replicas, got {}", replicas, ranks);
  LOCKSTEP_CHECK(options.rank >= 0 && options.rank < ranks, ValueError, "DistributedSampler",
                 "expected a rank in [0, {}), got {}", ranks, options.rank);
  replicas_ = part_of(replicas, ranks, options.rank);
}

Run DistributedSampler::part_of_batch(std::int64_t batch_size) const {
  return {part_of(batch_size, options_.num_replicas, replicas_.begin).begin,
          part_of(batch_size, options_.num_replicas, replicas_.end - 1).end};
}

std::int64_t DistributedSampler::visited() const {
  return options_.drop_last ? size_ - size_ % global_batch_size_ : size_;
}

std::int64_t DistributedSampler::size() const {
  return visited() / global_batch_size_ * part_of_batch(global_batch_size_).size() +
         part_of_batch(visited() % global_batch_size_).size();
}

std::vector<std::int64_t> DistributedSampler::indices(std::int64_t epoch) const {
  const std::vector<std::int64_t> all =
      options_.shuffle ? RandomSampler(size_, options_.seed).indices(epoch) : SequentialSampler(size_).indices(epoch);
  std::vector<std::int64_t> mine;
  mine.reserve(static_cast<std::size_t>(size()));
  for (std::int64_t first = 0; first < visited(); first += global_batch_size_) {
    const Run part = part_of_batch(std::min(global_batch_size_, visited() - first));
    mine.insert(mine.end(), all.begin() + first + part.begin, all.begin() + first + part.end);
  }
  return mine;
}

std::int64_t DistributedSampler::batch_size() const {
  return std::max<std::int64_t>(1, part_of_batch(global_batch_size_).size());
}

std::int64_t DistributedSampler::global_batches() const {
  return visited() / global_batch_size_ + (visited() % global_batch_size_ > 0 ? 1 : 0);
}

}  // namespace lockstep
