#include <lockstep/kernels/cross_entropy.h>

#include <limits>

#include <lockstep/kernels/cuda/row_softmax.cuh>

// −log_softmax(x)_c is computed as (max − x_c) + log Σ e^(x − max): exact where logits are huge.

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Fills a row of the gradient.
template <RowKind kKind, int kWidth, class T>
__device__ void fill_row(RowTeam<kKind> team, std::int64_t vectors, float value, T* out, bool aligned) {
  Floats<kWidth> v;
  for (int j = 0; j < kWidth; ++j) v[j] = value;
  for (std::int64_t k = team.rank(); k < vectors; k += team.kSize) store_floats(out, v, k, aligned);
}

/// Keeps nothing: one pass.
template <RowKind kKind, int kWidth, class T>
__global__ void __launch_bounds__(RowTeam<kKind>::kThreads, RowTeam<kKind>::kBlocks)
    cross_entropy_forward_kernel(std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                                 std::int64_t ignore_index, float smoothing, float* loss, bool aligned) {
  auto& shared = block_shared<TeamShared>();
  const RowTeam<kKind> team;
  Floats<kWidth> ones;
  for (int j = 0; j < kWidth; ++j) ones[j] = 1.0f;
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const std::int64_t t = team.broadcast(target + row, shared.target);
    if (t == ignore_index || t < 0 || t >= classes) {
      if (team.rank() == 0) loss[row] = t == ignore_index ? 0.0f : kNaN;
      continue;
    }
    OnlineCrossEntropy all;
    for (std::int64_t k = team.rank(); k < classes / kWidth; k += team.kSize) {
      const auto v = load_floats<kWidth>(logits + row * classes, k, aligned);
      all.add(v, ones);
      if (k == t / kWidth) {
        for (int j = 0; j < kWidth; ++j) {
          if (j == t % kWidth) shared.value[team.number()] = v[j];
        }
      }
    }
    all.finish(team, shared);
    team.sync();
    const float value = (all.softmax.max - shared.value[team.number()]) + logf(all.softmax.sum);
    const float everywhere = smoothing != 0.0f ? all.total(team, shared) : 0.0f;
    if (team.rank() == 0) {
      loss[row] =
          smoothing != 0.0f ? (1.0f - smoothing) * value + smoothing / static_cast<float>(classes) * everywhere : value;
    }
  }
}

template <RowKind kKind, int kWidth, class T>
__global__ void __launch_bounds__(RowTeam<kKind>::kThreads, RowTeam<kKind>::kBlocks)
    cross_entropy_backward_kernel(std::int64_t rows, std::int64_t classes, const T* logits, const std::int64_t* target,
                                  std::int64_t ignore_index, float smoothing, const float* grad_loss, T* grad_logits,
                                  bool aligned) {
  auto& shared = block_shared<RowShared<kKind>>();
  const RowTeam<kKind> team;
  const float everywhere = smoothing / static_cast<float>(classes);
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> x(team, shared, 0, 1, logits + row * classes, classes, aligned);
    T* grad = grad_logits + row * classes;
    const std::int64_t t = team.broadcast(target + row, shared.team.target);
    if (t == ignore_index || t < 0 || t >= classes) {
      fill_row<kKind, kWidth>(team, x.vectors(), t == ignore_index ? 0.0f : kNaN, grad, aligned);
      continue;
    }
    const auto [max, sum] = load_softmax<true>(team, shared.team, x);
    const float inverse = 1.0f / sum;
    const float g = team.broadcast(grad_loss + row, shared.team.value);
    for (std::int64_t k = team.rank(); k < x.vectors(); k += team.kSize) {
      auto v = get_exp(x, k, max);
      for (int j = 0; j < kWidth; ++j) {
        const float other = v[j] * inverse - everywhere;
        v[j] = g * (k * kWidth + j == t ? other - (1.0f - smoothing) : other);
      }
      store_floats(grad, v, k, aligned);
    }
  }
}

/// The smoothed target probability.
__device__ inline float smoothed(float target, float smoothing, float everywhere) {
  return (1.0f - smoothing) * target + everywhere;
}

/// Keeps nothing: one pass.
template <RowKind kKind, int kWidth, class T>
__global__ void __launch_bounds__(RowTeam<kKind>::kThreads, RowTeam<kKind>::kBlocks)
    cross_entropy_probabilities_forward_kernel(std::int64_t rows, std::int64_t classes, const T* logits,
                                               const T* target, float smoothing, float* loss, bool aligned) {
  auto& shared = block_shared<TeamShared>();
  const RowTeam<kKind> team;
  const float everywhere = smoothing / static_cast<float>(classes);
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    OnlineCrossEntropy all;
    for (std::int64_t k = team.rank(); k < classes / kWidth; k += team.kSize) {
      const auto v = load_floats<kWidth>(logits + row * classes, k, aligned);
      auto weights = load_floats<kWidth>(target + row * classes, k, aligned);
      for (int j = 0; j < kWidth; ++j) weights[j] = smoothed(weights[j], smoothing, everywhere);
      all.add(v, weights);
    }
    all.finish(team, shared);
    const float total = all.total(team, shared);
    if (team.rank() == 0) loss[row] = total;
  }
}

template <RowKind kKind, int kWidth, class T>
__global__ void __launch_bounds__(RowTeam<kKind>::kThreads, RowTeam<kKind>::kBlocks)
    cross_entropy_probabilities_backward_kernel(std::int64_t rows, std::int64_t classes, const T* logits,
                                                const T* target, float smoothing, const float* grad_loss,
                                                T* grad_logits, bool aligned) {
  auto& shared = block_shared<RowShared<kKind>>();
  const RowTeam<kKind> team;
  const float everywhere = smoothing / static_cast<float>(classes);
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> x(team, shared, 0, 2, logits + row * classes, classes, aligned);
    const Row<kKind, kWidth, T> t(team, shared, 1, 2, target + row * classes, classes, aligned);
    const auto [max, sum] = load_softmax<true>(team, shared.team, x);
    float mass = 0.0f;
    for (std::int64_t k = team.rank(); k < t.vectors(); k += team.kSize) {
      const auto v = t.load(k);
      for (int j = 0; j < kWidth; ++j) mass += smoothed(v[j], smoothing, everywhere);
    }
    mass = team.reduce(mass, Sum{}, shared.team.reduce);
    const float inverse = 1.0f / sum;
    const float g = team.broadcast(grad_loss + row, shared.team.value);
    for (std::int64_t k = team.rank(); k < x.vectors(); k += team.kSize) {
      auto v = get_exp(x, k, max);
      const auto w = t.get(k);
      for (int j = 0; j < kWidth; ++j) {
        v[j] = g * (v[j] * inverse * mass - smoothed(w[j], smoothing, everywhere));
      }
      store_floats(grad_logits + row * classes, v, k, aligned);
    }
  }
}

constexpr int kCountThreads = 1024;

/// One block: a batch has few rows.
__global__ void inverse_count_kernel(std::int64_t rows, const std::int64_t* target, std::int64_t ignore_index,
                                     float* out) {
  std::int64_t counted = 0;
  for (std::int64_t i = threadIdx.x; i < rows; i += kCountThreads) counted += target[i] != ignore_index ? 1 : 0;
  counted = block_reduce(counted, Sum{}, block_shared<BlockReduceShared<std::int64_t>>());
  if (threadIdx.x == 0) *out = static_cast<float>(1.0 / static_cast<double>(counted));
}

}  // namespace

template <class T>
void cross_entropy_forward(CudaStream stream, std::int64_t rows, std::int64_t classes, const T* logits,
                           const std::int64_t* target, std::int64_t ignore_index, lockstep::Compute<T> smoothing,
                           lockstep::Compute<T>* loss) {
  if (rows == 0) return;
  with_row_kind(classes, [&](auto kind) {
    with_row_width<T>(classes, [&](auto width) {
      launch<TeamShared>(row_launch(rows, kind, stream), cross_entropy_forward_kernel<kind(), width(), T>, rows,
                         classes, logits, target, ignore_index, smoothing, loss, is_aligned(16, logits));
    });
  });
}

template <class T>
void cross_entropy_backward(CudaStream stream, std::int64_t rows, std::int64_t classes, const T* logits,
                            const std::int64_t* target, std::int64_t ignore_index, lockstep::Compute<T> smoothing,
                            const lockstep::Compute<T>* grad_loss, T* grad_logits) {
  if (rows == 0) return;
  with_row_kind(classes, [&](auto kind) {
    with_row_width<T>(classes, [&](auto width) {
      launch<RowShared<kind()>>(row_launch(rows, kind, stream), cross_entropy_backward_kernel<kind(), width(), T>, rows,
                                classes, logits, target, ignore_index, smoothing, grad_loss, grad_logits,
                                is_aligned(16, logits, grad_logits));
    });
  });
}

template <class T>
void cross_entropy_inverse_count(CudaStream stream, std::int64_t rows, const std::int64_t* target,
                                 std::int64_t ignore_index, T* out) {
  launch<BlockReduceShared<std::int64_t>>({.grid = 1, .block = kCountThreads, .stream = stream}, inverse_count_kernel,
                                          rows, target, ignore_index, out);
}

template <class T>
void cross_entropy_probabilities_forward(CudaStream stream, std::int64_t rows, std::int64_t classes, const T* logits,
                                         const T* target, lockstep::Compute<T> smoothing, lockstep::Compute<T>* loss) {
  if (rows == 0) return;
  with_row_kind(classes, [&](auto kind) {
    with_row_width<T>(classes, [&](auto width) {
      launch<TeamShared>(row_launch(rows, kind, stream), cross_entropy_probabilities_forward_kernel<kind(), width(), T>,
                         rows, classes, logits, target, smoothing, loss, is_aligned(16, logits, target));
    });
  });
}

template <class T>
void cross_entropy_probabilities_backward(CudaStream stream, std::int64_t rows, std::int64_t classes, const T* logits,
                                          const T* target, lockstep::Compute<T> smoothing,
                                          const lockstep::Compute<T>* grad_loss, T* grad_logits) {
  if (rows == 0) return;
  with_row_kind(2 * classes, [&](auto kind) {
    with_row_width<T>(classes, [&](auto width) {
      launch<RowShared<kind()>>(row_launch(rows, kind, stream),
                                cross_entropy_probabilities_backward_kernel<kind(), width(), T>, rows, classes, logits,
                                target, smoothing, grad_loss, grad_logits, is_aligned(16, logits, target, grad_logits));
    });
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                     \
  template void cross_entropy_forward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const std::int64_t*,     \
                                         std::int64_t, float, float*);                                              \
  template void cross_entropy_backward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const std::int64_t*,    \
                                          std::int64_t, float, const float*, T*);                                   \
  template void cross_entropy_probabilities_forward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const T*,  \
                                                       float, float*);                                              \
  template void cross_entropy_probabilities_backward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const T*, \
                                                        float, const float*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)
template void cross_entropy_inverse_count<float>(CudaStream, std::int64_t, const std::int64_t*, std::int64_t, float*);

}  // namespace lockstep::kernels
