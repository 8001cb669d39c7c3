#include <lockstep/kernels/elementwise.h>

#include <algorithm>
#include <cmath>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/common/vector_math.h>
#include <lockstep/kernels/cpu/multiversion.h>

// Loops carry `ivdep` because buffers may be the same: the compiler's own overlap check would take the scalar loop
// then.

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 15;       // elements: some ten microseconds of memory traffic
constexpr std::int64_t kHeavyGrain = 1 << 13;  // where an element costs an exponential

template <class T, class F>
LOCKSTEP_MULTIVERSION void map(std::int64_t n, const T* a, T* out, F f) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) out[i] = f(a[i]);
}

template <class T, class F>
LOCKSTEP_MULTIVERSION void map2(std::int64_t n, const T* a, const T* b, T* out, F f) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) out[i] = f(a[i], b[i]);
}

template <class T, class F>
void parallel_map(std::int64_t n, std::int64_t grain, const T* a, T* out, F f) {
  parallel_for(n, grain, [=](std::int64_t begin, std::int64_t end) { map(end - begin, a + begin, out + begin, f); });
}

template <class T, class F>
void parallel_map2(std::int64_t n, const T* a, const T* b, T* out, F f) {
  parallel_for(n, kGrain,
               [=](std::int64_t begin, std::int64_t end) { map2(end - begin, a + begin, b + begin, out + begin, f); });
}

struct Sigmoid {
  LOCKSTEP_INLINE float operator()(float x) const {
    return static_cast<float>(1.0 / (1.0 + math::exp_single(-static_cast<double>(x))));
  }
  LOCKSTEP_INLINE double operator()(double x) const { return 1.0 / (1.0 + vector_exp(-x)); }
};

template <class T>
struct Tanh {
  LOCKSTEP_INLINE T operator()(T x) const { return std::tanh(x); }
};
template <>
struct Tanh<float> {
  LOCKSTEP_INLINE float operator()(float x) const {
    const double a = std::fabs(static_cast<double>(x)), e = vector_exp(-2.0 * a);
    const double y = a < 1e-4 ? a - a * a * a / 3.0 : (1.0 - e) / (1.0 + e);  // the quotient cancels near 0
    return static_cast<float>(std::copysign(y, static_cast<double>(x)));
  }
};

struct Add {
  template <class T>
  LOCKSTEP_INLINE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Sub {
  template <class T>
  LOCKSTEP_INLINE T operator()(T a, T b) const {
    return a - b;
  }
};
struct Mul {
  template <class T>
  LOCKSTEP_INLINE T operator()(T a, T b) const {
    return a * b;
  }
};
struct Div {
  template <class T>
  LOCKSTEP_INLINE T operator()(T a, T b) const {
    return a / b;
  }
};

/// One run along the innermost dimension.
template <class T, class F>
LOCKSTEP_INLINE void broadcast_run(std::int64_t n, const T* a, std::int64_t a_stride, const T* b, std::int64_t b_stride,
                                   T* out, F f) {
  if (a_stride == 1 && b_stride == 1) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) out[i] = f(a[i], b[i]);
  } else if (a_stride == 1 && b_stride == 0) {
    const T scalar = *b;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) out[i] = f(a[i], scalar);
  } else if (a_stride == 0 && b_stride == 1) {
    const T scalar = *a;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) out[i] = f(scalar, b[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) out[i] = f(a[i * a_stride], b[i * b_stride]);
  }
}

/// Elements [begin, end) of the output, run by run; `index` counts like an odometer.
template <class T, class F>
LOCKSTEP_MULTIVERSION void broadcast(const BroadcastShape& shape, std::int64_t begin, std::int64_t end, const T* a,
                                     const T* b, T* out, F f) {
  const int last = shape.rank - 1;
  std::int64_t index[BroadcastShape::kMaxRank];
  for (std::int64_t rest = begin, d = last; d >= 0; --d) {
    index[d] = rest % shape.sizes[d];
    rest /= shape.sizes[d];
    a += index[d] * shape.a_strides[d];
    b += index[d] * shape.b_strides[d];
  }
  while (begin < end) {
    const std::int64_t run = std::min(shape.sizes[last] - index[last], end - begin);
    broadcast_run(run, a, shape.a_strides[last], b, shape.b_strides[last], out + begin, f);
    begin += run;
    index[last] += run;
    a += run * shape.a_strides[last];
    b += run * shape.b_strides[last];
    for (int d = last; d > 0 && index[d] == shape.sizes[d]; --d) {
      a += shape.a_strides[d - 1] - index[d] * shape.a_strides[d];
      b += shape.b_strides[d - 1] - index[d] * shape.b_strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

template <class T, class F>
void binary_with(const BroadcastShape& shape, const T* a, const T* b, T* out, F f) {
  if (shape.rank == 1 && shape.a_strides[0] == 1 && shape.b_strides[0] == 1) {
    parallel_map2(shape.sizes[0], a, b, out, f);
    return;
  }
  if (shape.rank == 0) {
    *out = f(*a, *b);
    return;
  }
  std::int64_t n = 1;
  for (int d = 0; d < shape.rank; ++d) n *= shape.sizes[d];
  parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) { broadcast(shape, begin, end, a, b, out, f); });
}

}  // namespace

template <class T>
void unary_forward(Cpu, UnaryOp op, std::int64_t n, const T* x, T* y) {
  switch (op) {
    case UnaryOp::neg: return parallel_map(n, kGrain, x, y, [](T v) { return -v; });
    case UnaryOp::exp: return parallel_map(n, kHeavyGrain, x, y, [](T v) { return vector_exp(v); });
    case UnaryOp::log: return parallel_map(n, kHeavyGrain, x, y, [](T v) { return vector_log(v); });
    case UnaryOp::sqrt: return parallel_map(n, kGrain, x, y, [](T v) { return std::sqrt(v); });
    case UnaryOp::relu: return parallel_map(n, kGrain, x, y, [](T v) { return v < 0 ? T(0) : v; });
    case UnaryOp::sigmoid: return parallel_map(n, kHeavyGrain, x, y, Sigmoid{});
    case UnaryOp::tanh: return parallel_map(n, kHeavyGrain, x, y, Tanh<T>{});
  }
}

template <class T>
void unary_backward(Cpu, UnaryOp op, std::int64_t n, const T* saved, const T* grad_y, T* grad_x) {
  switch (op) {
    case UnaryOp::neg: return parallel_map(n, kGrain, grad_y, grad_x, [](T g) { return -g; });
    case UnaryOp::exp: return parallel_map2(n, saved, grad_y, grad_x, [](T y, T g) { return g * y; });
    case UnaryOp::log: return parallel_map2(n, saved, grad_y, grad_x, [](T x, T g) { return g / x; });
    case UnaryOp::sqrt: return parallel_map2(n, saved, grad_y, grad_x, [](T y, T g) { return g / (2 * y); });
    case UnaryOp::relu: return parallel_map2(n, saved, grad_y, grad_x, [](T y, T g) { return y <= 0 ? T(0) : g; });
    case UnaryOp::sigmoid: return parallel_map2(n, saved, grad_y, grad_x, [](T y, T g) { return g * (1 - y) * y; });
    case UnaryOp::tanh: return parallel_map2(n, saved, grad_y, grad_x, [](T y, T g) { return g * (1 - y * y); });
  }
}

template <class T>
void binary(Cpu, BinaryOp op, const BroadcastShape& shape, const T* a, const T* b, T* out) {
  switch (op) {
    case BinaryOp::add: return binary_with(shape, a, b, out, Add{});
    case BinaryOp::sub: return binary_with(shape, a, b, out, Sub{});
    case BinaryOp::mul: return binary_with(shape, a, b, out, Mul{});
    case BinaryOp::div: return binary_with(shape, a, b, out, Div{});
  }
}

template <class T>
void affine(Cpu, std::int64_t n, const T* x, T scale, T shift, T* y) {
  parallel_map(n, kGrain, x, y, [=](T v) { return v * scale + shift; });
}

template <class T>
void add_scaled(Cpu, std::int64_t n, const T* x, T scale, T* y) {
  parallel_map2(n, x, y, y, [=](T a, T b) { return b + a * scale; });
}

#define LOCKSTEP_INSTANTIATE(T)                                                          \
  template void unary_forward<T>(Cpu, UnaryOp, std::int64_t, const T*, T*);              \
  template void unary_backward<T>(Cpu, UnaryOp, std::int64_t, const T*, const T*, T*);   \
  template void binary<T>(Cpu, BinaryOp, const BroadcastShape&, const T*, const T*, T*); \
  template void affine<T>(Cpu, std::int64_t, const T*, T, T, T*);                        \
  template void add_scaled<T>(Cpu, std::int64_t, const T*, T, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
