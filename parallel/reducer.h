// Gradients of replicas, summed over all ranks in buckets while backward goes on. The engine of DistributedDataParallel
// and DataParallel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <lockstep/core/tensor.h>
#include <lockstep/parallel/process_group.h>
#include <lockstep/parallel/replica_tree.h>

namespace lockstep {

/// How replicas are computed and their gradients summed; sizes are those of torch.nn.parallel.DistributedDataParallel.
struct ReplicaOptions {
  std::int64_t replicas = 0;  ///< R; 0: one for each rank. At least the number of ranks
  /// Threads that a replica computes with; 0: one if there are several replicas, else num_threads(). The bits depend on
  /// it.
  int threads = 0;
  /// Sums along the canonical tree over replicas: the same bits for any number of ranks. False: each rank adds those of
  /// its replicas, then ProcessGroup::all_reduce.
  bool bitwise = true;
  std::size_t first_bucket_bytes = std::size_t{1} << 20;  ///< small, so that the first all-reduce starts early
  std::size_t bucket_bytes = std::size_t{25} << 20;       ///< at most, unless one parameter alone is larger
  bool overlap = true;  ///< false: every bucket is reduced after backward, which gives the same bits more slowly
  /// Gradients travel between ranks as bfloat16 and are summed in it: half the bytes of float32, 8 bits of mantissa.
  /// Needs one replica for each rank and bitwise = true.
  bool bf16_compression = false;
  bool broadcast_buffers = true;  ///< after each step all ranks take over replica 0's buffers (running statistics)
};

/// What a Reducer has done, in numbers.
struct ReducerStats {
  std::int64_t steps = 0;                ///< calls of finish()
  std::int64_t buckets = 0;              ///< as they are now
  std::int64_t rebuilds = 0;             ///< 1 after the first step: buckets are then in the order of readiness
  std::int64_t reduced = 0;              ///< buckets, over all steps
  std::int64_t reduced_in_backward = 0;  ///< buckets whose reduction started while backward went on
  double seconds_waited = 0.0;           ///< in finish(), for reductions: communication that was not hidden
};

/// Owns the gradients of the parameters: buckets are flat tensors, and during the backward of a replica the leaves'
/// gradients are written straight into them. One step is: backward() or skip() for each replica of this rank in order,
/// then finish(). All ranks make the same calls; the parameters are the same on all of them, in the same order. Not
/// thread-safe.
class Reducer {
 public:
  /// The parameters are leaves on group.device() that require a gradient; `group` must outlive this. Throws ValueError
  /// for no parameter, fewer replicas than ranks or bucket sizes of 0, AutogradError for tensors that are no such
  /// leaves.
  Reducer(std::vector<Tensor> parameters, ProcessGroup& group, const ReplicaOptions& options = {});
  ~Reducer();

  std::int64_t replicas() const;  ///< R
  Run own() const;                ///< the replicas of this rank

  /// root.backward(grad) for the next replica of this rank. `value` (one element, or undefined: 0) is summed over all
  /// replicas like the gradients.
  void backward(const Tensor& root, const Tensor& grad, const Tensor& value = {});
  /// The next replica of this rank contributes nothing.
  void skip();
  /// Waits for the reductions; then each parameter that any replica used has the sum in grad(), added to the gradient
  /// that it had before. Returns the sum of the values, 0-dimensional.
  Tensor finish();
  /// With `false`, finish() reduces nothing from now on, returns an undefined tensor and leaves grad() alone: it keeps
  /// what the replicas have, and the gradients of the next step are added to it, replica by replica. To be called
  /// between steps.
  void set_sync(bool on);
  /// Forgets the step under way, after an exception.
  void reset();

  ReducerStats stats() const;  ///< since it was made

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;  // hooks on the parameters look whether it is still there
};

}  // namespace lockstep
