// Stochastic gradient descent with momentum (torch.optim.SGD).
#pragma once

#include <cstdint>
#include <vector>

#include <lockstep/core/optim/optimizer.h>

namespace lockstep {

/// For each parameter p with gradient g, as PyTorch:
///   g += weight_decay · p;  buffer = momentum · buffer + (1 − dampening) · g  (g itself in the first step);
///   p −= lr · (nesterov ? g + momentum · buffer : buffer),  or lr · g without momentum.
/// A parameter without a gradient is left alone, its buffer too. All tensors of a group are updated in one pass.
class SGD final : public Optimizer {
 public:
  /// torch.optim.SGD's.
  struct Options {
    double lr = 1e-3;
    double momentum = 0.0;
    double dampening = 0.0;
    double weight_decay = 0.0;
    bool nesterov = false;  ///< needs momentum > 0 and dampening = 0
  };
  /// Parameters with options of their own.
  struct ParamGroup {
    std::vector<Tensor> params;
    Options options;
  };

  /// `SGD(model.parameters(), {.lr = 0.01, .momentum = 0.9})`. Throws ValueError for options out of range, and as
  /// Optimizer does.
  SGD(std::vector<Tensor> params, const Options& options);
  /// `SGD({{weights, {.weight_decay = 1e-4}}, {biases, {}}})`.
  explicit SGD(std::vector<ParamGroup> groups);

  /// The options of a group, lr as it is now.
  Options options(std::size_t group = 0) const;
  /// Replaces them. Throws ValueError for options out of range.
  void set_options(std::size_t group, const Options& options);

  void step() override;
  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

 private:
  std::vector<Options> options_;                       // per group; its lr stands in groups_
  std::vector<std::vector<Tensor>> momentum_buffers_;  // per group and parameter; undefined before the first step
};

}  // namespace lockstep
