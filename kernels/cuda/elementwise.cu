#include <lockstep/kernels/elementwise.h>

#include <lockstep/kernels/cuda/map.cuh>

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

// The functions, of floats. Backward ones take what the op saved (see elementwise.h) and the gradient.

struct Neg {
  __device__ float operator()(float x) const { return -x; }
};
struct Exp {
  __device__ float operator()(float x) const { return expf(x); }
};
struct ExpBackward {
  __device__ float operator()(float y, float g) const { return g * y; }
};
struct Log {
  __device__ float operator()(float x) const { return logf(x); }
};
struct LogBackward {
  __device__ float operator()(float x, float g) const { return g / x; }
};
struct Sqrt {
  __device__ float operator()(float x) const { return sqrtf(x); }
};
struct SqrtBackward {
  __device__ float operator()(float y, float g) const { return g / (2.0f * y); }
};
struct Relu {
  __device__ float operator()(float x) const { return x < 0.0f ? 0.0f : x; }
};
struct ReluBackward {
  __device__ float operator()(float y, float g) const { return y <= 0.0f ? 0.0f : g; }
};
struct Sigmoid {
  /// By e^-|x|, which cannot overflow, so that results near 0 keep their relative precision.
  __device__ float operator()(float x) const {
    const float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
  }
};
struct SigmoidBackward {
  __device__ float operator()(float y, float g) const { return g * (1.0f - y) * y; }
};
struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
};
struct TanhBackward {
  __device__ float operator()(float y, float g) const { return g * (1.0f - y * y); }
};

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Sub {
  __device__ float operator()(float a, float b) const { return a - b; }
};
struct Mul {
  __device__ float operator()(float a, float b) const { return a * b; }
};
struct Div {
  __device__ float operator()(float a, float b) const { return a / b; }
};

struct Affine {
  float scale, shift;
  __device__ float operator()(float x) const { return x * scale + shift; }
};
struct AddScaled {
  float scale;
  __device__ float operator()(float x, float y) const { return y + x * scale; }
};

/// A run of an operand along the last dimension, where its stride is 1, or 0 to repeat one element; any stride if
/// kWidth is 1.
template <int kWidth, class T>
__device__ Vector<T, kWidth> load_run(const T* data, std::int64_t stride) {
  if (stride == 1 || kWidth == 1) return load_vector<kWidth>(data);
  Vector<T, kWidth> run;
  const T value = *data;
  for (int j = 0; j < kWidth; ++j) run[j] = value;
  return run;
}

/// A run of kWidth elements of the output, all in one row of the last dimension, for each thread.
template <int kWidth, class T, class F>
__global__ void broadcast_kernel(std::int64_t n, BroadcastShape shape, F f, const T* a, const T* b, T* out) {
  const int last = shape.rank - 1;
  for (std::int64_t i = first_element(); i < n / kWidth; i += element_stride()) {
    std::int64_t rest = i * kWidth, a_offset = 0, b_offset = 0;
    for (int d = last; d > 0; --d) {
      const std::int64_t next = rest / shape.sizes[d], index = rest - next * shape.sizes[d];
      a_offset += index * shape.a_strides[d];
      b_offset += index * shape.b_strides[d];
      rest = next;
    }
    a_offset += rest * shape.a_strides[0];
    b_offset += rest * shape.b_strides[0];
    const auto result = map_vectors<T, kWidth>(f, load_run<kWidth>(a + a_offset, shape.a_strides[last]),
                                               load_run<kWidth>(b + b_offset, shape.b_strides[last]));
    store_vector(out, result, i);
  }
}

/// Whether runs of `width` elements along the last dimension can be loaded at once, or repeat one element.
template <class T>
bool has_runs(const BroadcastShape& shape, const std::int64_t* strides, int width, const T* data) {
  const int last = shape.rank - 1;
  if (strides[last] == 0) return true;
  if (strides[last] != 1 || !is_aligned(sizeof(T) * static_cast<std::size_t>(width), data)) return false;
  for (int d = 0; d < last; ++d) {
    if (strides[d] % width != 0) return false;
  }
  return true;
}

template <class T, class F>
void binary_with(CudaStream stream, const BroadcastShape& broadcast, const T* a, const T* b, T* out) {
  if (broadcast.rank == 1 && broadcast.a_strides[0] == 1 && broadcast.b_strides[0] == 1) {
    map_floats(stream, broadcast.sizes[0], F{}, out, a, b);
    return;
  }
  BroadcastShape shape = broadcast;
  if (shape.rank == 0) {  // one element
    shape.rank = 1;
    shape.sizes[0] = 1;
  }
  std::int64_t n = 1;
  for (int d = 0; d < shape.rank; ++d) n *= shape.sizes[d];
  constexpr int kWidth = kVectorSize<T>;
  const bool vectors = shape.sizes[shape.rank - 1] % kWidth == 0 && is_aligned(16, out) &&
                       has_runs(shape, shape.a_strides, kWidth, a) && has_runs(shape, shape.b_strides, kWidth, b);
  using Function = InFloat<T, F>;
  if (n == 0) return;
  launch({.grid = block_count(vectors ? n / kWidth : n, kElementThreads), .block = kElementThreads, .stream = stream},
         vectors ? broadcast_kernel<kWidth, T, Function> : broadcast_kernel<1, T, Function>, n, shape, Function{}, a, b,
         out);
}

}  // namespace

template <class T>
void unary_forward(CudaStream stream, UnaryOp op, std::int64_t n, const T* x, T* y) {
  switch (op) {
    case UnaryOp::neg: return map_floats(stream, n, Neg{}, y, x);
    case UnaryOp::exp: return map_floats(stream, n, Exp{}, y, x);
    case UnaryOp::log: return map_floats(stream, n, Log{}, y, x);
    case UnaryOp::sqrt: return map_floats(stream, n, Sqrt{}, y, x);
    case UnaryOp::relu: return map_floats(stream, n, Relu{}, y, x);
    case UnaryOp::sigmoid: return map_floats(stream, n, Sigmoid{}, y, x);
    case UnaryOp::tanh: return map_floats(stream, n, Tanh{}, y, x);
  }
}

template <class T>
void unary_backward(CudaStream stream, UnaryOp op, std::int64_t n, const T* saved, const T* grad_y, T* grad_x) {
  switch (op) {
    case UnaryOp::neg: return map_floats(stream, n, Neg{}, grad_x, grad_y);
    case UnaryOp::exp: return map_floats(stream, n, ExpBackward{}, grad_x, saved, grad_y);
    case UnaryOp::log: return map_floats(stream, n, LogBackward{}, grad_x, saved, grad_y);
    case UnaryOp::sqrt: return map_floats(stream, n, SqrtBackward{}, grad_x, saved, grad_y);
    case UnaryOp::relu: return map_floats(stream, n, ReluBackward{}, grad_x, saved, grad_y);
    case UnaryOp::sigmoid: return map_floats(stream, n, SigmoidBackward{}, grad_x, saved, grad_y);
    case UnaryOp::tanh: return map_floats(stream, n, TanhBackward{}, grad_x, saved, grad_y);
  }
}

template <class T>
void binary(CudaStream stream, BinaryOp op, const BroadcastShape& shape, const T* a, const T* b, T* out) {
  switch (op) {
    case BinaryOp::add: return binary_with<T, Add>(stream, shape, a, b, out);
    case BinaryOp::sub: return binary_with<T, Sub>(stream, shape, a, b, out);
    case BinaryOp::mul: return binary_with<T, Mul>(stream, shape, a, b, out);
    case BinaryOp::div: return binary_with<T, Div>(stream, shape, a, b, out);
  }
}

template <class T>
void affine(CudaStream stream, std::int64_t n, const T* x, lockstep::Compute<T> scale, lockstep::Compute<T> shift,
            T* y) {
  map_floats(stream, n, Affine{scale, shift}, y, x);
}

template <class T>
void add_scaled(CudaStream stream, std::int64_t n, const T* x, lockstep::Compute<T> scale, T* y) {
  map_floats(stream, n, AddScaled{scale}, y, x, static_cast<const T*>(y));
}

#define LOCKSTEP_INSTANTIATE(T)                                                                 \
  template void unary_forward<T>(CudaStream, UnaryOp, std::int64_t, const T*, T*);              \
  template void unary_backward<T>(CudaStream, UnaryOp, std::int64_t, const T*, const T*, T*);   \
  template void binary<T>(CudaStream, BinaryOp, const BroadcastShape&, const T*, const T*, T*); \
  template void affine<T>(CudaStream, std::int64_t, const T*, float, float, T*);                \
  template void add_scaled<T>(CudaStream, std::int64_t, const T*, float, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
