// Convolutions on CUDA by cuDNN's graph API. A graph for each shape is planned once, by cuDNN's heuristics or by
// timing, and kept.
#include <lockstep/kernels/conv2d.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/cuda_check.h>
#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/math_mode.h>
#include <lockstep/kernels/copy.h>
#include <lockstep/kernels/cuda/cudnn_graph.h>
#include <lockstep/kernels/cuda/plan_cache.h>
#include <lockstep/kernels/elementwise.h>
#include <lockstep/kernels/reduce.h>

namespace lockstep::kernels {
namespace {

using cudnn::ConvolutionGraph;
using cudnn::ConvolutionKey;
using cudnn::Pass;

std::int64_t x_size(const Conv2dShape& s) { return s.n * s.h * s.w * s.c; }
std::int64_t w_size(const Conv2dShape& s) { return s.k * s.r * s.s * (s.c / s.groups); }
std::int64_t y_size(const Conv2dShape& s) { return s.n * s.p * s.q * s.k; }
bool is_empty(const Conv2dShape& s) { return x_size(s) == 0 || w_size(s) == 0 || y_size(s) == 0; }

template <class T>
std::shared_ptr<ConvolutionGraph> plan(CudaStream stream, const Conv2dShape& shape, Pass pass, bool bias = false,
                                       bool relu = false) {
  static auto& graphs = *new cuda::PlanCache<ConvolutionKey, ConvolutionGraph>;
  ConvolutionKey key{};
  key.shape = shape;
  key.device = cuda::current_device();
  key.pass = static_cast<std::int32_t>(pass);
  key.dtype = static_cast<std::int32_t>(dtype_of<T>);
  key.bias = bias;
  key.relu = bias && relu;
  key.tf32 = std::is_same_v<T, float> && is_tf32_allowed();
  key.deterministic = is_deterministic();
  key.benchmark = is_cudnn_benchmark();
  return graphs.find_or_make(
      key, [stream](const ConvolutionKey& missing) { return std::make_shared<ConvolutionGraph>(missing, stream); });
}

/// A buffer as cuDNN's plans want it, aligned to 16 bytes: itself, or a copy. So the alignment of a buffer never
/// changes the plan, nor the bits.
template <class T>
class Aligned {
 public:
  Aligned(CudaStream stream, T* data, std::int64_t n)
      : stream_(stream),
        data_(data),
        bytes_(static_cast<std::size_t>(n) * sizeof(T)),
        copy_(stream, is_aligned() ? 0 : bytes_) {
    if (std::is_const_v<T> && !is_aligned()) copy(data_, copy_.data());
  }
  void* data() const { return is_aligned() ? const_cast<std::remove_const_t<T>*>(data_) : copy_.data(); }
  /// Brings a result to its place.
  void store() const {
    if (!is_aligned()) copy(copy_.data(), data_);
  }

 private:
  bool is_aligned() const { return reinterpret_cast<std::uintptr_t>(data_) % 16 == 0; }
  void copy(const void* from, const void* to) const {
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(const_cast<void*>(to), from, bytes_, cudaMemcpyDeviceToDevice, stream_));
  }

  CudaStream stream_;
  T* data_;
  std::size_t bytes_;
  cuda::StreamMemory copy_;
};

template <class T>
void set_zero(CudaStream stream, T* data, std::int64_t n) {
  if (n > 0) LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(data, 0, static_cast<std::size_t>(n) * sizeof(T), stream));
}

}  // namespace

template <class T>
std::size_t conv2d_forward_workspace(CudaStream stream, const Conv2dShape& s, bool bias, bool relu) {
  return is_empty(s) ? 0 : plan<T>(stream, s, Pass::forward, bias, relu)->workspace();
}
template <class T>
std::size_t conv2d_backward_data_workspace(CudaStream stream, const Conv2dShape& s) {
  return is_empty(s) ? 0 : plan<T>(stream, s, Pass::backward_data)->workspace();
}
template <class T>
std::size_t conv2d_backward_weight_workspace(CudaStream stream, const Conv2dShape& s) {
  const std::size_t sums = reduce_sum_workspace(stream, 1, s.n * s.p * s.q, s.k);
  return is_empty(s) ? sums : std::max(sums, plan<T>(stream, s, Pass::backward_weight)->workspace());
}

template <class T>
void conv2d_forward(CudaStream stream, const Conv2dShape& s, const T* x, const T* w, const T* bias, bool relu, T* y,
                    void* workspace) {
  const auto finish = [&] {
    if (relu) unary_forward<T>(stream, UnaryOp::relu, y_size(s), y, y);
  };
  if (is_empty(s)) {  // sums without terms
    if (!bias) return set_zero(stream, y, y_size(s));
    const std::int64_t rows = s.n * s.p * s.q;
    copy_strided(stream, {.rank = 2, .sizes = {rows, s.k}, .source_strides = {0, 1}, .target_strides = {s.k, 1}},
                 sizeof(T), bias, y);
    return finish();
  }
  const Aligned<const T> in(stream, x, x_size(s)), kernel(stream, w, w_size(s)), shift(stream, bias, bias ? s.k : 0);
  const Aligned<T> out(stream, y, y_size(s));
  plan<T>(stream, s, Pass::forward, bias != nullptr, relu)
      ->run(stream, in.data(), kernel.data(), out.data(), shift.data(), workspace);
  out.store();
  if (!bias) finish();
}

template <class T>
void conv2d_backward_data(CudaStream stream, const Conv2dShape& s, const T* grad_y, const T* w, T* grad_x,
                          void* workspace) {
  if (is_empty(s)) return set_zero(stream, grad_x, x_size(s));
  const Aligned<const T> grad(stream, grad_y, y_size(s)), kernel(stream, w, w_size(s));
  const Aligned<T> out(stream, grad_x, x_size(s));
  plan<T>(stream, s, Pass::backward_data)->run(stream, out.data(), kernel.data(), grad.data(), nullptr, workspace);
  out.store();
}

template <class T>
void conv2d_backward_weight(CudaStream stream, const Conv2dShape& s, const T* x, const T* grad_y, T* grad_w,
                            T* grad_bias, void* workspace) {
  if (is_empty(s)) {
    set_zero(stream, grad_w, w_size(s));
  } else {
    const Aligned<const T> in(stream, x, x_size(s)), grad(stream, grad_y, y_size(s));
    const Aligned<T> out(stream, grad_w, w_size(s));
    plan<T>(stream, s, Pass::backward_weight)->run(stream, in.data(), out.data(), grad.data(), nullptr, workspace);
    out.store();
  }
  if (grad_bias) reduce_sum<T>(stream, 1, s.n * s.p * s.q, s.k, grad_y, 1.0f, grad_bias, workspace);
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                   \
  template std::size_t conv2d_forward_workspace<T>(CudaStream, const Conv2dShape&, bool, bool);                   \
  template std::size_t conv2d_backward_data_workspace<T>(CudaStream, const Conv2dShape&);                         \
  template std::size_t conv2d_backward_weight_workspace<T>(CudaStream, const Conv2dShape&);                       \
  template void conv2d_forward<T>(CudaStream, const Conv2dShape&, const T*, const T*, const T*, bool, T*, void*); \
  template void conv2d_backward_data<T>(CudaStream, const Conv2dShape&, const T*, const T*, T*, void*);           \
  template void conv2d_backward_weight<T>(CudaStream, const Conv2dShape&, const T*, const T*, T*, T*, void*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
