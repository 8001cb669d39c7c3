#include <lockstep/kernels/sgd.h>

#include <algorithm>

#include <lockstep/core/base/dtype.h>
#include <lockstep/kernels/cuda/rows.cuh>

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr int kThreads = 256;
constexpr std::int64_t kChunk = 16 * kThreads;  // elements of one tensor that a block updates

/// Tensors of one launch. Their descriptions travel as kernel parameters: 10 KiB of the 32,764 bytes that there are.
constexpr int kMaxTensors = 256;
template <class T>
struct SgdTensors {
  int count = 0;
  std::int64_t chunks = 0;  // of all tensors: blocks of the launch
  SgdTensor<T> tensors[kMaxTensors];
  std::int64_t first_chunk[kMaxTensors];  // of each tensor, counted over all of them
};

/// The options rounded to float once, as PyTorch does.
struct Factors {
  float lr, momentum, one_minus_dampening, weight_decay;
};

enum class Momentum { none, first_step, later };

/// One element. The float buffer that a 16-bit one is rounded from goes into the parameter.
template <Momentum kMomentum, bool kNesterov>
__device__ inline void update(float& param, float g, float& buffer, Factors f) {
  if (f.weight_decay != 0.0f) g += f.weight_decay * param;  // 0 · inf would be NaN
  if constexpr (kMomentum != Momentum::none) {
    buffer = kMomentum == Momentum::first_step ? g : f.momentum * buffer + f.one_minus_dampening * g;
    g = kNesterov ? g + f.momentum * buffer : buffer;
  }
  param -= f.lr * g;
}

/// Elements [k · kWidth, (k + 1) · kWidth) of a tensor.
template <Momentum kMomentum, bool kNesterov, int kWidth, class T>
__device__ inline void update_run(const SgdTensor<T>& tensor, std::int64_t k, Factors f) {
  auto param = load_floats<kWidth>(tensor.param, k, true);
  const auto grad = load_floats<kWidth>(tensor.grad, k, true);
  Floats<kWidth> buffer{};
  if constexpr (kMomentum == Momentum::later) buffer = load_floats<kWidth>(tensor.momentum_buffer, k, true);
  for (int j = 0; j < kWidth; ++j) update<kMomentum, kNesterov>(param[j], grad[j], buffer[j], f);
  if constexpr (kMomentum != Momentum::none) store_floats(tensor.momentum_buffer, buffer, k, true);
  store_floats(tensor.param, param, k, true);
}

template <Momentum kMomentum, bool kNesterov, class T>
__global__ void sgd_kernel(const SgdTensors<T> tensors, Factors f) {
  constexpr int kWidth = kVectorSize<T>;
  const std::int64_t chunk = blockIdx.x;
  int low = 0, high = tensors.count;  // the last tensor whose first chunk is not behind this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (tensors.first_chunk[middle] <= chunk ? low : high) = middle;
  }
  const SgdTensor<T> tensor = tensors.tensors[low];
  const std::int64_t begin = (chunk - tensors.first_chunk[low]) * kChunk, end = min(tensor.n, begin + kChunk);
  std::int64_t done = begin;
  if (is_aligned(16, tensor.param, tensor.grad, tensor.momentum_buffer)) {
    done = end / kWidth * kWidth;
    for (std::int64_t k = begin / kWidth + threadIdx.x; k < done / kWidth; k += kThreads) {
      update_run<kMomentum, kNesterov, kWidth>(tensor, k, f);
    }
  }
  for (std::int64_t i = done + threadIdx.x; i < end; i += kThreads) update_run<kMomentum, kNesterov, 1>(tensor, i, f);
}

template <class T>
using Kernel = void (*)(SgdTensors<T>, Factors);

template <class T>
Kernel<T> choose_kernel(const SgdOptions& options) {
  if (options.momentum == 0) return sgd_kernel<Momentum::none, false, T>;
  if (options.first_step) {
    return options.nesterov ? sgd_kernel<Momentum::first_step, true, T> : sgd_kernel<Momentum::first_step, false, T>;
  }
  return options.nesterov ? sgd_kernel<Momentum::later, true, T> : sgd_kernel<Momentum::later, false, T>;
}

}  // namespace

template <class T>
void sgd_step(CudaStream stream, std::span<const SgdTensor<T>> tensors, const SgdOptions& options) {
  const Factors factors{static_cast<float>(options.lr), static_cast<float>(options.momentum),
                        static_cast<float>(1.0 - options.dampening), static_cast<float>(options.weight_decay)};
  const Kernel<T> kernel = choose_kernel<T>(options);
  SgdTensors<T> batch;
  const auto launch_batch = [&] {
    if (batch.count == 0) return;
    launch({.grid = static_cast<unsigned>(batch.chunks), .block = kThreads, .stream = stream}, kernel, batch, factors);
    batch.count = 0;
    batch.chunks = 0;
  };
  for (const SgdTensor<T>& tensor : tensors) {
    if (tensor.n == 0) continue;
    batch.tensors[batch.count] = tensor;
    batch.first_chunk[batch.count] = batch.chunks;
    ++batch.count;
    batch.chunks += (tensor.n - 1) / kChunk + 1;
    if (batch.count == kMaxTensors) launch_batch();
  }
  launch_batch();
}

template void sgd_step<float>(CudaStream, std::span<const SgdTensor<float>>, const SgdOptions&);
template void sgd_step<float16>(CudaStream, std::span<const SgdTensor<float16>>, const SgdOptions&);
template void sgd_step<bfloat16>(CudaStream, std::span<const SgdTensor<bfloat16>>, const SgdOptions&);

}  // namespace lockstep::kernels
