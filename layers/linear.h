// The fully connected layer.
#pragma once

#include <cstdint>

#include <lockstep/layers/module.h>

namespace lockstep {

/// torch.nn.Linear: x [..., in_features] → x · weightᵀ + bias [..., out_features]. Weight and bias start uniform within
/// ±1 / √in_features.
class Linear : public Module {
 public:
  /// torch.nn.Linear's.
  struct Options {
    bool bias = true;
  };

  /// Throws ValueError unless both sizes are positive.
  Linear(std::int64_t in_features, std::int64_t out_features) : Linear(in_features, out_features, Options{}) {}
  /// `Linear(512, 10, {.bias = false})`.
  Linear(std::int64_t in_features, std::int64_t out_features, const Options& options);

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

  Tensor weight;  ///< [out_features, in_features]
  Tensor bias;    ///< [out_features], or undefined
};

}  // namespace lockstep
