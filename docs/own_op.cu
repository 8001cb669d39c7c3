// The CUDA half of own_op.md.
#include <lockstep/core/base/error.h>

#include "own_op.h"

using lockstep::CudaStream;

namespace mine {
namespace {

template <class T>
__global__ void swish_forward_kernel(std::int64_t n, const T* x, T beta, T* y) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) y[i] = swish_value(x[i], beta);
}

template <class T>
__global__ void swish_backward_kernel(std::int64_t n, const T* x, T beta, const T* grad_y, T* grad_x) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) grad_x[i] = grad_y[i] * swish_slope(x[i], beta);
}

constexpr int kThreads = 256;

unsigned blocks(std::int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw lockstep::DeviceError("swish", cudaGetErrorString(error));
}

}  // namespace

template <class T>
void swish_forward(CudaStream stream, std::int64_t n, const T* x, T beta, T* y) {
  if (n == 0) return;
  swish_forward_kernel<<<blocks(n), kThreads, 0, stream>>>(n, x, beta, y);
  check_launch();
}

template <class T>
void swish_backward(CudaStream stream, std::int64_t n, const T* x, T beta, const T* grad_y, T* grad_x) {
  if (n == 0) return;
  swish_backward_kernel<<<blocks(n), kThreads, 0, stream>>>(n, x, beta, grad_y, grad_x);
  check_launch();
}

template void swish_forward(CudaStream, std::int64_t, const float*, float, float*);
template void swish_forward(CudaStream, std::int64_t, const double*, double, double*);
template void swish_backward(CudaStream, std::int64_t, const float*, float, const float*, float*);
template void swish_backward(CudaStream, std::int64_t, const double*, double, const double*, double*);

}  // namespace mine
