// Batch normalisation, alone and fused with what usually follows it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include <lockstep/core/ops.h>
#include <lockstep/layers/activation.h>
#include <lockstep/layers/module.h>

namespace lockstep {

/// What BatchNorm1d and BatchNorm2d share. In training, and always without running statistics, each channel is
/// normalised by the batch's mean and variance; else by the running ones.
class BatchNorm : public Module {
 public:
  /// torch.nn.BatchNorm2d's.
  struct Options {
    double eps = 1e-5;
    std::optional<double> momentum = 0.1;  ///< nullopt: running statistics are plain averages over all batches
    bool affine = true;                    ///< false: no weight and bias
    bool track_running_stats = true;       ///< false: no running statistics
  };

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

  /// Normalises training batches by the statistics of those of all ranks, which `all_reduce` sums, differentiably: see
  /// parallel/sync_batch_norm.h. An empty function ends that.
  void synchronize(std::function<Tensor(const Tensor&)> all_reduce) { all_reduce_ = std::move(all_reduce); }
  bool is_synchronized() const { return static_cast<bool>(all_reduce_); }  ///< false at the start

  Tensor weight;               ///< [num_features] of 1, or undefined
  Tensor bias;                 ///< [num_features] of 0, or undefined
  Tensor running_mean;         ///< [num_features] of 0, or undefined
  Tensor running_var;          ///< [num_features] of 1, or undefined
  Tensor num_batches_tracked;  ///< int64 scalar on the CPU: training batches seen; or undefined

 protected:
  /// `rank` is that of the inputs taken.
  BatchNorm(std::int64_t num_features, const Options& options, int rank);

 private:
  friend Tensor batch_norm_relu(BatchNorm& norm, ReLU& relu, const Tensor& x, const Tensor& residual);

  /// Checks the input and says how to normalise it.
  BatchNormOptions forward_options(const Tensor& x) const;
  /// Counts the batch in training: after the op, since a refused batch changes nothing.
  void count_batch();
  /// Weight and bias; constants without affine.
  std::pair<Tensor, Tensor> weight_and_bias(const Tensor& x) const;
  /// The forward of a synchronised batch, out of plain ops.
  Tensor forward_over_ranks(const Tensor& x, const BatchNormOptions& options);

  std::int64_t num_features_;
  Options options_;
  int rank_;
  std::function<Tensor(const Tensor&)> all_reduce_;
};

/// torch.nn.BatchNorm2d over [N, C, H, W].
class BatchNorm2d : public BatchNorm {
 public:
  /// Throws ValueError unless num_features is positive.
  explicit BatchNorm2d(std::int64_t num_features) : BatchNorm2d(num_features, Options{}) {}
  /// `BatchNorm2d(64, {.momentum = 0.01})`.
  BatchNorm2d(std::int64_t num_features, const Options& options) : BatchNorm(num_features, options, 4) {}
};

/// torch.nn.BatchNorm1d over [N, C].
class BatchNorm1d : public BatchNorm {
 public:
  /// Throws ValueError unless num_features is positive.
  explicit BatchNorm1d(std::int64_t num_features) : BatchNorm1d(num_features, Options{}) {}
  /// `BatchNorm1d(64, {.momentum = 0.01})`.
  BatchNorm1d(std::int64_t num_features, const Options& options) : BatchNorm(num_features, options, 2) {}
};

/// relu(norm(x) + residual), or relu(norm(x)) for an undefined residual, in one fused op; through the modules one by
/// one while either has a forward hook.
Tensor batch_norm_relu(BatchNorm& norm, ReLU& relu, const Tensor& x, const Tensor& residual = {});

}  // namespace lockstep
