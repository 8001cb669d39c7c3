#include <lockstep/kernels/cross_entropy.h>

#include <limits>

#include <lockstep/kernels/cuda/rows.cuh>

// −log_softmax(x)_c is computed as (max − x_c) + log Σ e^(x − max): exact where logits are huge.

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// The largest of a row, which is loaded on the way.
template <RowKind kKind, int kWidth, class T>
__device__ float row_max(RowTeam<kKind> team, RowShared& shared, const Row<kKind, kWidth, T>& row) {
  float max = -kInfinity;
  for (std::int64_t k = team.rank(); k < row.vectors(); k += team.kSize) {
    const auto v = row.load(k);
    for (int j = 0; j < kWidth; ++j) max = Max{}(max, v[j]);
  }
  return team.reduce(max, Max{}, shared.reduce);
}

/// Σ e^(x − max).
template <RowKind kKind, int kWidth, class T>
__device__ float row_exp_sum(RowTeam<kKind> team, RowShared& shared, const Row<kKind, kWidth, T>& row, float max) {
  float sum = 0.0f;
  for (std::int64_t k = team.rank(); k < row.vectors(); k += team.kSize) {
    const auto v = row.get(k);
    for (int j = 0; j < kWidth; ++j) sum += expf(v[j] - max);
  }
  return team.reduce(sum, Sum{}, shared.reduce);
}

/// The same for the backward: the exponentials replace the row where it is kept.
template <RowKind kKind, int kWidth, class T>
__device__ float replace_by_exp(RowTeam<kKind> team, RowShared& shared, const Row<kKind, kWidth, T>& row, float max) {
  float sum = 0.0f;
  for (std::int64_t k = team.rank(); k < row.vectors(); k += team.kSize) {
    auto v = row.get(k);
    for (int j = 0; j < kWidth; ++j) {
      v[j] = expf(v[j] - max);
      sum += v[j];
    }
    row.put(k, v);
  }
  return team.reduce(sum, Sum{}, shared.reduce);
}

/// The exponentials of the k-th vector after replace_by_exp().
template <RowKind kKind, int kWidth, class T>
__device__ Floats<kWidth> get_exp(const Row<kKind, kWidth, T>& row, std::int64_t k, float max) {
  auto v = row.get(k);
  if constexpr (!row.kCached) {
    for (int j = 0; j < kWidth; ++j) v[j] = expf(v[j] - max);
  }
  return v;
}

/// Fills a row of the gradient.
template <RowKind kKind, int kWidth, class T>
__device__ void fill_row(RowTeam<kKind> team, std::int64_t vectors, float value, T* out, bool aligned) {
  Floats<kWidth> v;
  for (int j = 0; j < kWidth; ++j) v[j] = value;
  for (std::int64_t k = team.rank(); k < vectors; k += team.kSize) store_floats(out, v, k, aligned);
}

template <RowKind kKind, int kWidth, class T>
__global__ void cross_entropy_forward_kernel(std::int64_t rows, std::int64_t classes, const T* logits,
                                             const std::int64_t* target, std::int64_t ignore_index, float smoothing,
                                             float* loss, bool aligned) {
  auto& shared = block_shared<RowShared>();
  const RowTeam<kKind> team;
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const std::int64_t t = team.broadcast(target + row, shared.target);
    if (t == ignore_index || t < 0 || t >= classes) {
      if (team.rank() == 0) loss[row] = t == ignore_index ? 0.0f : kNaN;
      continue;
    }
    const Row<kKind, kWidth, T> x(team, shared, 0, logits + row * classes, classes, aligned);
    const float max = row_max(team, shared, x);
    const float log_sum = logf(row_exp_sum(team, shared, x, max));
    float all = 0.0f;
    if (smoothing != 0.0f) {
      for (std::int64_t k = team.rank(); k < x.vectors(); k += team.kSize) {
        const auto v = x.get(k);
        for (int j = 0; j < kWidth; ++j) all += (max - v[j]) + log_sum;
      }
      all = team.reduce(all, Sum{}, shared.reduce);
    }
    team.sync();
    if (team.rank() == 0) {
      const float value = (max - x.at(t)) + log_sum;
      loss[row] =
          smoothing != 0.0f ? (1.0f - smoothing) * value + smoothing / static_cast<float>(classes) * all : value;
    }
  }
}

template <RowKind kKind, int kWidth, class T>
__global__ void cross_entropy_backward_kernel(std::int64_t rows, std::int64_t classes, const T* logits,
                                              const std::int64_t* target, std::int64_t ignore_index, float smoothing,
                                              const float* grad_loss, T* grad_logits, bool aligned) {
  auto& shared = block_shared<RowShared>();
  const RowTeam<kKind> team;
  const float everywhere = smoothing / static_cast<float>(classes);
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> x(team, shared, 0, logits + row * classes, classes, aligned);
    T* grad = grad_logits + row * classes;
    const std::int64_t t = team.broadcast(target + row, shared.target);
    if (t == ignore_index || t < 0 || t >= classes) {
      fill_row<kKind, kWidth>(team, x.vectors(), t == ignore_index ? 0.0f : kNaN, grad, aligned);
      continue;
    }
    const float max = row_max(team, shared, x);
    const float inverse = 1.0f / replace_by_exp(team, shared, x, max);
    const float g = team.broadcast(grad_loss + row, shared.grad_loss);
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

template <RowKind kKind, int kWidth, class T>
__global__ void cross_entropy_probabilities_forward_kernel(std::int64_t rows, std::int64_t classes, const T* logits,
                                                           const T* target, float smoothing, float* loss,
                                                           bool aligned) {
  auto& shared = block_shared<RowShared>();
  const RowTeam<kKind> team;
  const float everywhere = smoothing / static_cast<float>(classes);
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> x(team, shared, 0, logits + row * classes, classes, aligned);
    const float max = row_max(team, shared, x);
    const float log_sum = logf(row_exp_sum(team, shared, x, max));
    float sum = 0.0f;
    for (std::int64_t k = team.rank(); k < x.vectors(); k += team.kSize) {
      const auto v = x.get(k);
      const auto t = load_floats<kWidth>(target + row * classes, k, aligned);
      for (int j = 0; j < kWidth; ++j) {
        const float weight = smoothed(t[j], smoothing, everywhere);
        sum += weight == 0.0f && v[j] < max ? 0.0f : weight * ((max - v[j]) + log_sum);
      }
    }
    sum = team.reduce(sum, Sum{}, shared.reduce);
    if (team.rank() == 0) loss[row] = sum;
  }
}

template <RowKind kKind, int kWidth, class T>
__global__ void cross_entropy_probabilities_backward_kernel(std::int64_t rows, std::int64_t classes, const T* logits,
                                                            const T* target, float smoothing, const float* grad_loss,
                                                            T* grad_logits, bool aligned) {
  auto& shared = block_shared<RowShared>();
  const RowTeam<kKind> team;
  const float everywhere = smoothing / static_cast<float>(classes);
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    const Row<kKind, kWidth, T> x(team, shared, 0, logits + row * classes, classes, aligned);
    const Row<kKind, kWidth, T> t(team, shared, 1, target + row * classes, classes, aligned);
    const float max = row_max(team, shared, x);
    const float inverse = 1.0f / replace_by_exp(team, shared, x, max);
    float mass = 0.0f;
    for (std::int64_t k = team.rank(); k < t.vectors(); k += team.kSize) {
      const auto v = t.load(k);
      for (int j = 0; j < kWidth; ++j) mass += smoothed(v[j], smoothing, everywhere);
    }
    mass = team.reduce(mass, Sum{}, shared.reduce);
    const float g = team.broadcast(grad_loss + row, shared.grad_loss);
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
      launch<RowShared>(row_launch(rows, kind, stream), cross_entropy_forward_kernel<kind(), width(), T>, rows, classes,
                        logits, target, ignore_index, smoothing, loss, is_aligned(16, logits));
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
      launch<RowShared>(row_launch(rows, kind, stream), cross_entropy_backward_kernel<kind(), width(), T>, rows,
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
      launch<RowShared>(row_launch(rows, kind, stream), cross_entropy_probabilities_forward_kernel<kind(), width(), T>,
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
      launch<RowShared>(row_launch(rows, kind, stream), cross_entropy_probabilities_backward_kernel<kind(), width(), T>,
                        rows, classes, logits, target, smoothing, grad_loss, grad_logits,
                        is_aligned(16, logits, target, grad_logits));
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
