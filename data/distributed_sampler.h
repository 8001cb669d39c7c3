// The part of every epoch that one rank loads when several train together.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <lockstep/core/base/run.h>
#include <lockstep/data/sampler.h>

namespace lockstep {

/// torch.utils.data.DistributedSampler's, and the number of ranks that carry the replicas.
struct DistributedSamplerOptions {
  std::int64_t num_replicas = 1;               ///< shards that each global batch is cut into
  std::int64_t rank = 0;                       ///< the one that loads
  std::optional<std::int64_t> num_ranks = {};  ///< unset: as many as replicas
  bool shuffle = true;                         ///< another order in every epoch (RandomSampler)
  std::uint64_t seed = 0;                      ///< of the shuffle; the same on all ranks
  bool drop_last = false;                      ///< leave out a last global batch that is not full
};

/// An epoch is the permutation that RandomSampler (or SequentialSampler) makes of the data set, in global batches of
/// consecutive indices. Each is cut into num_replicas shards and the shards into num_ranks runs, both by part_of; a
/// rank loads its run. So the global batches, and the shards that the replicas see, are the same for any number of
/// ranks.
///
/// Every index is visited by exactly one rank: unlike torch's DistributedSampler, nothing is repeated to make the
/// shares equal. What a rank has of the last global batch may be smaller than what others have, or nothing.
class DistributedSampler : public Sampler {
 public:
  /// For a data set of `size` examples in global batches of `global_batch_size`. Throws ValueError for a negative size,
  /// a batch of none, or unless 0 ≤ rank < num_ranks ≤ num_replicas.
  DistributedSampler(std::int64_t size, std::int64_t global_batch_size, DistributedSamplerOptions options = {});

  /// How many indices of an epoch this rank visits.
  std::int64_t size() const override;
  /// Those, in order. The k-th global batch's are [k · batch_size(), (k + 1) · batch_size()) of them; fewer of the
  /// last.
  std::vector<std::int64_t> indices(std::int64_t epoch) const override;

  /// The replicas whose shards this rank loads.
  Run replicas() const { return replicas_; }
  /// This rank's part of a full global batch: what its DataLoader takes as batch_size. At least 1, as that one asks
  /// for, also where the rank's part is empty (and so all of its epochs are).
  std::int64_t batch_size() const;
  /// Global batches in an epoch: on a rank whose part of the last one is empty, one more than its DataLoader gives.
  std::int64_t global_batches() const;

 private:
  Run part_of_batch(std::int64_t batch_size) const;
  std::int64_t visited() const;  // examples in the global batches of an epoch

  std::int64_t size_, global_batch_size_;
  DistributedSamplerOptions options_;
  Run replicas_;
};

}  // namespace lockstep
