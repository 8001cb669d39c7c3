// The CUDA half of own_op.md.
#include "own_op.h"

#include <lockstep/kernels/cuda/launch.cuh>

using namespace lockstep;

namespace mine {
namespace {

template <class T>
__global__ void swish_forward_kernel(std::int64_t n, const T* x, Compute<T> beta, T* y) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    y[i] = T(swish_value(Compute<T>(x[i]), beta));
  }
}

template <class T>
__global__ void swish_backward_kernel(std::int64_t n, const T* x, Compute<T> beta, const T* grad_y, T* grad_x) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    grad_x[i] = T(Compute<T>(grad_y[i]) * swish_slope(Compute<T>(x[i]), beta));
  }
}

}  // namespace

template <class T>
void swish_forward(CudaStream stream, std::int64_t n, const T* x, Compute<T> beta, T* y) {
  cuda::launch_elements(n, stream, swish_forward_kernel<T>, x, beta, y);
}

template <class T>
void swish_backward(CudaStream stream, std::int64_t n, const T* x, Compute<T> beta, const T* grad_y, T* grad_x) {
  cuda::launch_elements(n, stream, swish_backward_kernel<T>, x, beta, grad_y, grad_x);
}

template void swish_forward(CudaStream, std::int64_t, const float*, float, float*);
template void swish_forward(CudaStream, std::int64_t, const float16*, float, float16*);
template void swish_forward(CudaStream, std::int64_t, const bfloat16*, float, bfloat16*);
template void swish_backward(CudaStream, std::int64_t, const float*, float, const float*, float*);
template void swish_backward(CudaStream, std::int64_t, const float16*, float, const float16*, float16*);
template void swish_backward(CudaStream, std::int64_t, const bfloat16*, float, const bfloat16*, bfloat16*);

}  // namespace mine
