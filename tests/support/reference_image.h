// What convolution and pooling must give, by the plainest loops over float64 values, sharing nothing with the library.
// Results are row-major.
#pragma once

#include <lockstep/core/ops.h>

namespace lockstep::test::reference {

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options);
/// −inf where a window lies in the padding alone.
Tensor max_pool2d(const Tensor& x, const Pool2dOptions& options);
Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& options);
Tensor adaptive_avg_pool2d(const Tensor& x, Pair output);

}  // namespace lockstep::test::reference
