// One fused pass of stochastic gradient descent over many tensors (torch.optim.SGD).
#pragma once

#include <cstdint>
#include <span>

#include <lockstep/core/base/device.h>

namespace lockstep {

/// One parameter with its gradient and momentum buffer (null when momentum is 0), n elements each; they do not overlap.
/// T is float or double on the CPU, float, float16 or bfloat16 on CUDA.
template <class T>
struct SgdTensor {
  T* param;
  const T* grad;
  T* momentum_buffer;
  std::int64_t n;
};

/// What all parameters of a pass share: see SGD::Options.
struct SgdOptions {
  double lr = 0.01;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool first_step = false;  // the momentum buffer is set to the gradient instead of being decayed
};

namespace kernels {

/// g = grad + weight_decay · param; buffer = first_step ? g : momentum · buffer + (1 − dampening) · g;
/// param −= lr · (nesterov ? g + momentum · buffer : momentum ? buffer : g). Each tensor is read and written once. On
/// CUDA 256 tensors go with one launch.
template <class T>
void sgd_step(Cpu, std::span<const SgdTensor<T>> tensors, const SgdOptions& options);
template <class T>
void sgd_step(CudaStream, std::span<const SgdTensor<T>> tensors, const SgdOptions& options);

}  // namespace kernels
}  // namespace lockstep
