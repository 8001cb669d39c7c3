// Losses as modules.
#pragma once

#include <lockstep/core/ops.h>
#include <lockstep/layers/module.h>

namespace lockstep {

/// torch.nn.CrossEntropyLoss: see cross_entropy in core/ops.h.
class CrossEntropyLoss : public Module {
 public:
  CrossEntropyLoss() = default;
  /// `CrossEntropyLoss({.label_smoothing = 0.1})`.
  explicit CrossEntropyLoss(const CrossEntropyOptions& options) : options_(options) {}

  using Module::forward;
  /// logits [N, classes]; target int64 [N], or probabilities [N, classes].
  Tensor forward(const Tensor& logits, const Tensor& target) { return cross_entropy(logits, target, options_); }
  Tensor operator()(const Tensor& logits, const Tensor& target) { return forward(logits, target); }

 private:
  CrossEntropyOptions options_;
};

}  // namespace lockstep
