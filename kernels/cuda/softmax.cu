#include <lockstep/kernels/softmax.h>

#include <lockstep/core/base/dtype.h>
#include <lockstep/kernels/cuda/row_softmax.cuh>

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

/// Softmax, or its logarithm.
template <bool kLog, RowKind kKind, int kWidth, class T>
__global__ void __launch_bounds__(RowTeam<kKind>::kThreads, RowTeam<kKind>::kBlocks)
    softmax_kernel(std::int64_t rows, std::int64_t n, const T* x, T* y, bool aligned) {
  auto& shared = block_shared<RowShared<kKind>>();
  const RowTeam<kKind> team;
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> in(team, shared, 0, 1, x + row * n, n, aligned);
    const auto [max, sum] = load_softmax<!kLog>(team, shared.team, in);
    const float log_sum = logf(sum), inverse = 1.0f / sum;
    for (std::int64_t k = team.rank(); k < in.vectors(); k += team.kSize) {
      auto v = kLog ? in.get(k) : get_exp(in, k, max);
      for (int j = 0; j < kWidth; ++j) v[j] = kLog ? (v[j] - max) - log_sum : v[j] * inverse;
      store_floats(y + row * n, v, k, aligned);
    }
  }
}

/// grad_x = y · (g − Σ g · y), or for the logarithm g − e^y · Σ g.
template <bool kLog, RowKind kKind, int kWidth, class T>
__global__ void __launch_bounds__(RowTeam<kKind>::kThreads, RowTeam<kKind>::kBlocks)
    softmax_backward_kernel(std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x, bool aligned) {
  auto& shared = block_shared<RowShared<kKind>>();
  const RowTeam<kKind> team;
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> out(team, shared, 0, 2, y + row * n, n, aligned);
    const Row<kKind, kWidth, T> grad(team, shared, 1, 2, grad_y + row * n, n, aligned);
    float sum = 0.0f;
    for (std::int64_t k = team.rank(); k < out.vectors(); k += team.kSize) {
      const auto v = out.load(k), g = grad.load(k);
      for (int j = 0; j < kWidth; ++j) sum += kLog ? g[j] : g[j] * v[j];
    }
    sum = team.reduce(sum, Sum{}, shared.team.reduce);
    for (std::int64_t k = team.rank(); k < out.vectors(); k += team.kSize) {
      const auto v = out.get(k);
      auto g = grad.get(k);
      for (int j = 0; j < kWidth; ++j) g[j] = kLog ? g[j] - expf(v[j]) * sum : v[j] * (g[j] - sum);
      store_floats(grad_x + row * n, g, k, aligned);
    }
  }
}

template <bool kLog, class T>
void forward(CudaStream stream, std::int64_t rows, std::int64_t n, const T* x, T* y) {
  if (rows == 0 || n == 0) return;
  with_row_kind(n, [&](auto kind) {
    with_row_width<T>(n, [&](auto width) {
      launch<RowShared<kind()>>(row_launch(rows, kind, stream), softmax_kernel<kLog, kind(), width(), T>, rows, n, x, y,
                                is_aligned(16, x, y));
    });
  });
}

template <bool kLog, class T>
void backward(CudaStream stream, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x) {
  if (rows == 0 || n == 0) return;
  with_row_kind(2 * n, [&](auto kind) {
    with_row_width<T>(n, [&](auto width) {
      launch<RowShared<kind()>>(row_launch(rows, kind, stream), softmax_backward_kernel<kLog, kind(), width(), T>, rows,
                                n, y, grad_y, grad_x, is_aligned(16, y, grad_y, grad_x));
    });
  });
}

}  // namespace

template <class T>
void softmax_forward(CudaStream stream, std::int64_t rows, std::int64_t n, const T* x, T* y) {
  forward<false>(stream, rows, n, x, y);
}

template <class T>
void softmax_backward(CudaStream stream, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x) {
  backward<false>(stream, rows, n, y, grad_y, grad_x);
}

template <class T>
void log_softmax_forward(CudaStream stream, std::int64_t rows, std::int64_t n, const T* x, T* y) {
  forward<true>(stream, rows, n, x, y);
}

template <class T>
void log_softmax_backward(CudaStream stream, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y,
                          T* grad_x) {
  backward<true>(stream, rows, n, y, grad_y, grad_x);
}

#define LOCKSTEP_INSTANTIATE(T)                                                                      \
  template void softmax_forward<T>(CudaStream, std::int64_t, std::int64_t, const T*, T*);            \
  template void softmax_backward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const T*, T*); \
  template void log_softmax_forward<T>(CudaStream, std::int64_t, std::int64_t, const T*, T*);        \
  template void log_softmax_backward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
