// The parts that conv2d.cpp chooses between, apart from its own use of oneDNN. Internal.
#pragma once

#include <lockstep/kernels/conv2d.h>

namespace lockstep::kernels::conv2d {

/// Plain loops for every shape, empty ones included: rows of input patches are gathered and multiplied by gemm. The
/// work is cut by sizes alone, so with gemm<double> the bits do not depend on the number of threads.
template <class T>
void reference_forward(const Conv2dShape& shape, const T* x, const T* w, const T* bias, T* y);
template <class T>
void reference_backward_data(const Conv2dShape& shape, const T* grad_y, const T* w, T* grad_x);
template <class T>
void reference_backward_weight(const Conv2dShape& shape, const T* x, const T* grad_y, T* grad_w);

/// grad_bias [channels] = the sums of the columns of grad_y [rows, channels].
template <class T>
void bias_gradient(std::int64_t rows, std::int64_t channels, const T* grad_y, T* grad_bias);

/// Few output positions, where most taps fall into the padding: a matrix product over the whole batch for every
/// position and every tap that meets the image, straight from the tensors as they lie. Needs groups = 1 and no empty
/// size.
void positions_forward(const Conv2dShape& shape, const float* x, const float* w, const float* bias, float* y);
void positions_backward_data(const Conv2dShape& shape, const float* grad_y, const float* w, float* grad_x);
void positions_backward_weight(const Conv2dShape& shape, const float* x, const float* grad_y, float* grad_w);

}  // namespace lockstep::kernels::conv2d
