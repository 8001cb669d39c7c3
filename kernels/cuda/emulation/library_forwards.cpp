// What cuDNN and cuBLASLt do in a real build, done by the CPU's kernels: queued in the stream like a library's kernel,
// with its reads and writes of device memory checked. 16-bit elements are computed in float and rounded once.
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include <lockstep/core/base/float16.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/conv2d.h>
#include <lockstep/kernels/cuda/emulation/emulation.h>
#include <lockstep/kernels/gemm.h>

namespace lockstep::kernels {
namespace {

using emulation::Range;

/// A matrix in device memory: rows of `columns` elements, `stride` apart. T may be const.
template <class T>
struct Matrix {
  T* data;
  std::int64_t rows, columns, stride;

  Matrix(T* start, std::int64_t row_count, std::int64_t column_count, std::int64_t row_stride)
      : data(start), rows(start ? row_count : 0), columns(column_count), stride(row_stride) {}
  /// A dense array; empty if null.
  Matrix(T* start, std::int64_t n) : Matrix(start, 1, n, n) {}

  void add_to(std::vector<Range>& ranges) const {
    if (columns == 0) return;
    for (std::int64_t i = 0; i < rows; ++i) {
      ranges.push_back({data + i * stride, static_cast<std::size_t>(columns) * sizeof(T)});
    }
  }
};

/// The same as floats: the matrix itself, or a dense copy of one of 16-bit elements.
template <class T>
class Floats {
 public:
  using Element = std::remove_const_t<T>;
  using Float = std::conditional_t<std::is_const_v<T>, const float, float>;

  explicit Floats(const Matrix<T>& matrix) : matrix_(matrix) {
    if constexpr (!std::is_same_v<Element, float>) {
      for (std::int64_t i = 0; i < matrix_.rows; ++i) {
        for (std::int64_t j = 0; j < matrix_.columns; ++j) {
          copy_.push_back(static_cast<float>(matrix_.data[i * matrix_.stride + j]));
        }
      }
    }
  }

  Float* data() {
    if constexpr (std::is_same_v<Element, float>) {
      return matrix_.data;
    } else {
      return matrix_.data ? copy_.data() : nullptr;
    }
  }
  std::int64_t stride() const { return std::is_same_v<Element, float> ? matrix_.stride : matrix_.columns; }
  /// Rounds the copy's values to the matrix.
  void store() const {
    if constexpr (!std::is_same_v<Element, float>) {
      for (std::int64_t i = 0; i < matrix_.rows; ++i) {
        for (std::int64_t j = 0; j < matrix_.columns; ++j) {
          matrix_.data[i * matrix_.stride + j] = T(copy_[static_cast<std::size_t>(i * matrix_.columns + j)]);
        }
      }
    }
  }

 private:
  Matrix<T> matrix_;
  std::vector<float> copy_;
};

/// Queues body(), which runs with the number of threads of the thread that calls this.
void queue(const char* name, CudaStream stream, std::vector<Range> reads, std::vector<Range> writes,
           std::function<void()> body) {
  emulation::run_on_stream(name, stream, std::move(reads), std::move(writes),
                           [threads = num_threads(), body = std::move(body)] {
                             struct Restore {
                               int before = num_threads();
                               ~Restore() { set_num_threads(before); }
                             } restore;
                             set_num_threads(threads);
                             body();
                           });
}

template <class... Ts>
std::vector<Range> ranges(const Matrix<Ts>&... matrices) {
  std::vector<Range> all;
  (matrices.add_to(all), ...);
  return all;
}

/// What each convolution asks for. The CPU's kernels get memory of their own, but this much must be the stream's.
constexpr std::int64_t kWorkspace = 256;

std::vector<std::byte> host_workspace(std::size_t bytes) { return std::vector<std::byte>(bytes + 64); }
void* aligned(std::vector<std::byte>& workspace) {
  return workspace.data() + (64 - reinterpret_cast<std::uintptr_t>(workspace.data()) % 64) % 64;
}

std::int64_t x_size(const Conv2dShape& s) { return s.n * s.h * s.w * s.c; }
std::int64_t w_size(const Conv2dShape& s) { return s.k * s.r * s.s * (s.c / s.groups); }
std::int64_t y_size(const Conv2dShape& s) { return s.n * s.p * s.q * s.k; }

}  // namespace

template <class T>
std::size_t conv2d_forward_workspace(CudaStream, const Conv2dShape&, bool, bool) {
  return kWorkspace;
}
template <class T>
std::size_t conv2d_backward_data_workspace(CudaStream, const Conv2dShape&) {
  return kWorkspace;
}
template <class T>
std::size_t conv2d_backward_weight_workspace(CudaStream, const Conv2dShape&) {
  return kWorkspace;
}

template <class T>
void conv2d_forward(CudaStream stream, const Conv2dShape& s, const T* x, const T* w, const T* bias, bool relu, T* y,
                    void* workspace) {
  const Matrix<const T> input(x, x_size(s)), weight(w, w_size(s)), shift(bias, s.k);
  const Matrix<T> output(y, y_size(s));
  const Matrix<std::byte> scratch(static_cast<std::byte*>(workspace), kWorkspace);
  queue("conv2d_forward", stream, ranges(input, weight, shift), ranges(output, scratch), [=] {
    Floats<const T> in(input), kernel(weight), added(shift);
    Floats<T> out(output);
    auto host = host_workspace(conv2d_forward_workspace<float>(kOnCpu, s, bias != nullptr, relu));
    conv2d_forward<float>(kOnCpu, s, in.data(), kernel.data(), added.data(), relu, out.data(), aligned(host));
    out.store();
  });
}

template <class T>
void conv2d_backward_data(CudaStream stream, const Conv2dShape& s, const T* grad_y, const T* w, T* grad_x,
                          void* workspace) {
  const Matrix<const T> grad(grad_y, y_size(s)), weight(w, w_size(s));
  const Matrix<T> output(grad_x, x_size(s));
  const Matrix<std::byte> scratch(static_cast<std::byte*>(workspace), kWorkspace);
  queue("conv2d_backward_data", stream, ranges(grad, weight), ranges(output, scratch), [=] {
    Floats<const T> in(grad), kernel(weight);
    Floats<T> out(output);
    auto host = host_workspace(conv2d_backward_data_workspace<float>(kOnCpu, s));
    conv2d_backward_data<float>(kOnCpu, s, in.data(), kernel.data(), out.data(), aligned(host));
    out.store();
  });
}

template <class T>
void conv2d_backward_weight(CudaStream stream, const Conv2dShape& s, const T* x, const T* grad_y, T* grad_w,
                            T* grad_bias, void* workspace) {
  const Matrix<const T> input(x, x_size(s)), grad(grad_y, y_size(s));
  const Matrix<T> weight(grad_w, w_size(s)), bias(grad_bias, s.k);
  const Matrix<std::byte> scratch(static_cast<std::byte*>(workspace), kWorkspace);
  queue("conv2d_backward_weight", stream, ranges(input, grad), ranges(weight, bias, scratch), [=] {
    Floats<const T> in(input), out(grad);
    Floats<T> kernel(weight), shift(bias);
    auto host = host_workspace(conv2d_backward_weight_workspace<float>(kOnCpu, s));
    conv2d_backward_weight<float>(kOnCpu, s, in.data(), out.data(), kernel.data(), shift.data(), aligned(host));
    kernel.store();
    shift.store();
  });
}

template <class T>
void gemm(CudaStream stream, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const T* a, std::int64_t lda, const T* b, std::int64_t ldb, Compute<T> beta, T* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  const Matrix<const T> left(a, transpose_a ? k : m, transpose_a ? m : k, lda);
  const Matrix<const T> right(b, transpose_b ? n : k, transpose_b ? k : n, ldb);
  const Matrix<T> result(c, m, n, ldc);
  std::vector<Range> reads = ranges(left, right);
  if (beta != 0) result.add_to(reads);
  queue("gemm", stream, std::move(reads), ranges(result), [=] {
    Floats<const T> in_a(left), in_b(right);
    Floats<T> out(result);
    gemm<float>(kOnCpu, transpose_a, transpose_b, m, n, k, in_a.data(), in_a.stride(), in_b.data(), in_b.stride(), beta,
                out.data(), out.stride());
    out.store();
  });
}

template <class T>
void linear_forward(CudaStream stream, std::int64_t rows, std::int64_t out, std::int64_t in, const T* x, const T* w,
                    const T* bias, bool relu, T* y) {
  const Matrix<const T> input(x, rows * in), weight(w, out * in), shift(bias, out);
  const Matrix<T> output(y, rows * out);
  queue("linear_forward", stream, ranges(input, weight, shift), ranges(output), [=] {
    Floats<const T> values(input), factors(weight), added(shift);
    Floats<T> result(output);
    linear_forward<float>(kOnCpu, rows, out, in, values.data(), factors.data(), added.data(), relu, result.data());
    result.store();
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                       \
  template std::size_t conv2d_forward_workspace<T>(CudaStream, const Conv2dShape&, bool, bool);                       \
  template std::size_t conv2d_backward_data_workspace<T>(CudaStream, const Conv2dShape&);                             \
  template std::size_t conv2d_backward_weight_workspace<T>(CudaStream, const Conv2dShape&);                           \
  template void conv2d_forward<T>(CudaStream, const Conv2dShape&, const T*, const T*, const T*, bool, T*, void*);     \
  template void conv2d_backward_data<T>(CudaStream, const Conv2dShape&, const T*, const T*, T*, void*);               \
  template void conv2d_backward_weight<T>(CudaStream, const Conv2dShape&, const T*, const T*, T*, T*, void*);         \
  template void gemm<T>(CudaStream, bool, bool, std::int64_t, std::int64_t, std::int64_t, const T*, std::int64_t,     \
                        const T*, std::int64_t, float, T*, std::int64_t);                                             \
  template void linear_forward<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, const T*, const T*, const T*, \
                                  bool, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
