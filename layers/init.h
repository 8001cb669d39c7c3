// Initial values of parameters (torch.nn.init). All draws come from default_generator(), on the CPU, and are not
// recorded. The element type is float32 or float64 (DTypeError).
#pragma once

#include <lockstep/core/tensor.h>

namespace lockstep::init {

void constant_(const Tensor& tensor, double value);  ///< every element `value`
/// Uniform in [low, high). Throws ValueError unless low <= high.
void uniform_(const Tensor& tensor, double low = 0.0, double high = 1.0);
/// Normal. Throws ValueError unless stddev >= 0.
void normal_(const Tensor& tensor, double mean = 0.0, double stddev = 1.0);

/// What keeps its variance from layer to layer.
enum class FanMode {
  fan_in,  ///< inputs of one output: keeps the variance of activations
  fan_out  ///< outputs of one input: keeps the variance of gradients
};
/// What follows the layer.
enum class Nonlinearity { linear, relu, leaky_relu };

/// torch.nn.init.kaiming_uniform_'s, with its defaults.
struct KaimingOptions {
  double a = 0.0;  ///< negative slope, for leaky_relu
  FanMode mode = FanMode::fan_in;
  Nonlinearity nonlinearity = Nonlinearity::leaky_relu;
};

/// He et al., "Delving deep into rectifiers", ICCV 2015: uniform within ± gain · √(3 / fan), where gain is √(2 / (1 +
/// a²)) for leaky_relu, √2 for relu, 1 for linear. Throws ShapeError below two dimensions.
void kaiming_uniform_(const Tensor& weight, const KaimingOptions& options = {});
/// The same with a normal distribution of standard deviation gain / √fan.
void kaiming_normal_(const Tensor& weight, const KaimingOptions& options = {});

}  // namespace lockstep::init
