// Training with a copy of the model on every rank (torch.nn.parallel.DistributedDataParallel).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <lockstep/data/data_loader.h>
#include <lockstep/layers/module.h>
#include <lockstep/parallel/process_group.h>
#include <lockstep/parallel/reducer.h>

namespace lockstep {

/// Keeps the models of the ranks in lockstep. The global batch of a step is cut into R replicas (shards of consecutive
/// images), whatever the number of ranks P ≤ R: a rank computes a run of them, one after the other. The gradient of the
/// global mean loss is the sum of theirs, each weighted by its share of the images, along one tree; so the weights
/// after N steps are the same bits for every P. Random draws in a forward are a function of (seed, step, replica).
/// Buffers follow replica 0.
///
///     DistributedDataParallel ddp(model, group, {.replicas = 8});
///     SGD optimizer(model.parameters(), {.lr = 0.01, .momentum = 0.9});
///     for (const Batch& batch : loader.epoch(epoch)) {   // this rank's images: see DistributedSampler
///       optimizer.zero_grad();
///       const Tensor loss = ddp.backward(batch, [&](const Batch& replica) {
///         return cross_entropy(model(replica.images), replica.labels);
///       });
///       optimizer.step();
///     }
class DistributedDataParallel {
 public:
  /// The mean loss of some images, which are on the rank's device: a tensor of one element that depends on the model.
  using LossFunction = std::function<Tensor(const Batch& replica)>;

  /// Takes over the parameters and buffers of rank 0 on all ranks. `module` and `group` must outlive this. Throws
  /// CommError on every rank, naming the first difference, unless the models have the same parameters and buffers and
  /// the options are the same; and as Reducer does.
  DistributedDataParallel(Module& module, ProcessGroup& group, const ReplicaOptions& options = {});
  ~DistributedDataParallel();

  /// Forward and backward of one step: calls loss(replica) for each replica of this rank that has images, on its images
  /// in order, and leaves the gradient of the global mean loss in the parameters, added to what was there. Returns the
  /// global mean loss, 0-dimensional, without a place on the tape. All ranks call it equally often; one that has run
  /// out of images goes on with an empty Batch, and when all have the result is undefined and nothing is changed
  /// (torch's Join). Within NoSync only the numbers of images are exchanged, and the result is the mean loss of
  /// this rank's images (undefined without any).
  Tensor backward(const Batch& batch, const LossFunction& loss);

  /// While it lives, backward() adds up gradients without reducing them: gradient accumulation. The first backward()
  /// after it reduces the sum. Until then the parameters' grad() does not show them.
  class NoSync {
   public:
    /// backward() reduces nothing from here on; the destructor ends that. `ddp` must outlive it.
    explicit NoSync(DistributedDataParallel& ddp);
    ~NoSync();
    NoSync(const NoSync&) = delete;
    NoSync& operator=(const NoSync&) = delete;

   private:
    DistributedDataParallel& ddp_;
  };

  std::int64_t replicas() const { return reducer_.replicas(); }  ///< R
  Run own() const { return reducer_.own(); }                     ///< the replicas of this rank
  ReducerStats stats() const { return reducer_.stats(); }        ///< what the reductions were
  std::uint64_t steps() const { return step_; }                  ///< of backward() so far: what draws depend on
  void set_steps(std::uint64_t steps) { step_ = steps; }         ///< to go on from a checkpoint

 private:
  void check_models(const ReplicaOptions& options);
  void broadcast_from_rank_0();
  std::vector<Tensor> buffers() const;
  void broadcast(const std::vector<Tensor>& tensors);

  Module& module_;
  ProcessGroup& group_;
  bool broadcast_buffers_, sync_ = true;
  Reducer reducer_;
  int threads_;
  std::uint64_t seed_ = 0, step_ = 0;
};

}  // namespace lockstep
