#include <lockstep/kernels/sgd.h>

#include <algorithm>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // elements

/// The options rounded to T once, as PyTorch does.
template <class T>
struct Factors {
  T lr, momentum, one_minus_dampening, weight_decay;
};

template <bool kMomentum, bool kFirst, bool kNesterov, class T>
LOCKSTEP_MULTIVERSION void update(std::int64_t n, const T* __restrict__ grad, T* __restrict__ buffer,
                                  T* __restrict__ param, Factors<T> f) {
  const bool decay = f.weight_decay != 0;  // 0 · inf would be NaN
  for (std::int64_t i = 0; i < n; ++i) {
    T g = grad[i];
    const T decayed = g + f.weight_decay * param[i];
    g = decay ? decayed : g;
    if constexpr (kMomentum) {
      const T b = kFirst ? g : f.momentum * buffer[i] + f.one_minus_dampening * g;
      buffer[i] = b;
      g = kNesterov ? g + f.momentum * b : b;
    }
    param[i] -= f.lr * g;
  }
}

template <class T>
using Update = void (*)(std::int64_t, const T*, T*, T*, Factors<T>);

template <class T>
Update<T> choose_update(const SgdOptions& options) {
  if (options.momentum == 0) return update<false, false, false, T>;
  if (options.first_step) return options.nesterov ? update<true, true, true, T> : update<true, true, false, T>;
  return options.nesterov ? update<true, false, true, T> : update<true, false, false, T>;
}

}  // namespace

template <class T>
void sgd_step(Cpu, std::span<const SgdTensor<T>> tensors, const SgdOptions& options) {
  const Factors<T> factors{static_cast<T>(options.lr), static_cast<T>(options.momentum),
                           static_cast<T>(1.0 - options.dampening), static_cast<T>(options.weight_decay)};
  const Update<T> run = choose_update<T>(options);
  std::int64_t total = 0;
  for (const SgdTensor<T>& tensor : tensors) total += tensor.n;
  // All tensors are one long run of elements, cut between threads wherever that falls.
  parallel_for(total, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t offset = 0;
    for (const SgdTensor<T>& tensor : tensors) {
      const std::int64_t first = std::max<std::int64_t>(begin - offset, 0);
      const std::int64_t last = std::min(end - offset, tensor.n);
      if (first < last) {
        T* buffer = tensor.momentum_buffer ? tensor.momentum_buffer + first : nullptr;
        run(last - first, tensor.grad + first, buffer, tensor.param + first, factors);
      }
      offset += tensor.n;
      if (offset >= end) break;
    }
  });
}

template void sgd_step<float>(Cpu, std::span<const SgdTensor<float>>, const SgdOptions&);
template void sgd_step<double>(Cpu, std::span<const SgdTensor<double>>, const SgdOptions&);

}  // namespace lockstep::kernels
