// Activations and layers without parameters.
#pragma once

#include <lockstep/layers/module.h>

namespace lockstep {

/// torch.nn.ReLU. `inplace` only shows in the printed text: ops here never overwrite their input.
class ReLU : public Module {
 public:
  /// torch.nn.ReLU(inplace).
  explicit ReLU(bool inplace = false) : inplace_(inplace) {}

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

 private:
  bool inplace_;
};

/// torch.nn.Dropout: in training, zeroes each element with probability p and scales the others by 1 / (1 − p).
class Dropout : public Module {
 public:
  /// Throws ValueError unless p is in [0, 1]. `inplace` only shows in the printed text.
  explicit Dropout(double p = 0.5, bool inplace = false);

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

 private:
  double p_;
  bool inplace_;
};

/// torch.nn.Flatten: merges dimensions start_dim..end_dim, all but the batch unless told otherwise.
class Flatten : public Module {
 public:
  /// Dimensions may be negative, from the end.
  explicit Flatten(int start_dim = 1, int end_dim = -1) : start_dim_(start_dim), end_dim_(end_dim) {}

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

 private:
  int start_dim_, end_dim_;
};

/// torch.nn.Identity.
class Identity : public Module {
 public:
  Tensor forward(const Tensor& x) override { return x; }
};

}  // namespace lockstep
