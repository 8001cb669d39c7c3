// Chooses how to compute a convolution, and remembers the choice. Float runs on oneDNN or, with few output positions,
// on matrix products; double, and what oneDNN refuses, on the reference.
#include <lockstep/kernels/conv2d.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_map>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/conv2d_internal.h>
#include <lockstep/kernels/cpu/conv2d_onednn.h>
#include <lockstep/kernels/elementwise.h>

namespace lockstep::kernels {
namespace {

using conv2d::OnednnPlan;
using conv2d::Pass;

enum class Method { kReference, kPositions, kOnednn };

struct Plan {
  Method method;
  std::unique_ptr<const OnednnPlan> onednn;

  std::size_t workspace() const { return onednn ? onednn->workspace() : 0; }
};

struct Key {
  Conv2dShape shape;
  Pass pass;
  std::int64_t threads;

  bool operator==(const Key&) const = default;
};

bool is_empty(const Conv2dShape& d) {
  return d.n <= 0 || d.c <= 0 || d.h <= 0 || d.w <= 0 || d.k <= 0 || d.r <= 0 || d.s <= 0 || d.p <= 0 || d.q <= 0;
}

/// Where products over the batch win (measured). Up to 2×2 outputs of a 3×3 kernel, half of the taps lie in the
/// padding; up to 4×4, the products of the backward passes are still faster if they are large enough.
bool suits_positions(const Conv2dShape& d, Pass pass) {
  if (d.groups != 1) return false;
  const std::int64_t positions = d.p * d.q;
  if (positions <= 4) return true;
  return pass != Pass::kForward && positions <= 16 && d.r * d.s > 1 && d.n >= 16 && std::min(d.c, d.k) >= 64;
}

std::shared_ptr<const Plan> make_plan(const Key& key) {
  if (is_empty(key.shape)) return std::make_shared<Plan>(Plan{Method::kReference, nullptr});
  if (suits_positions(key.shape, key.pass)) return std::make_shared<Plan>(Plan{Method::kPositions, nullptr});
  auto onednn = OnednnPlan::make(key.shape, key.pass, key.threads);
  const Method method = onednn ? Method::kOnednn : Method::kReference;
  return std::make_shared<Plan>(Plan{method, std::move(onednn)});
}

std::shared_ptr<const Plan> find_plan(const Conv2dShape& shape, Pass pass) {
  struct Hash {
    std::size_t operator()(const Key& key) const {
      static_assert(std::has_unique_object_representations_v<Key> && sizeof(Key) % sizeof(std::uint64_t) == 0);
      std::uint64_t words[sizeof(Key) / sizeof(std::uint64_t)], hash = 0;
      std::memcpy(words, &key, sizeof(Key));
      for (const std::uint64_t word : words) hash = (hash ^ word) * 0x9E3779B97F4A7C15u ^ hash >> 29;
      return hash ^ hash >> 32;
    }
  };
  constexpr std::size_t kMaxPlans = 4096;  // so that ever-changing sizes do not fill the memory
  static std::mutex mutex;
  static std::unordered_map<Key, std::shared_ptr<const Plan>, Hash> plans;

  const Key key{shape, pass, num_threads()};
  const std::lock_guard lock(mutex);
  if (const auto found = plans.find(key); found != plans.end()) return found->second;
  if (plans.size() >= kMaxPlans) plans.clear();
  return plans.emplace(key, make_plan(key)).first->second;
}

/// A pass of its own: oneDNN's own ReLU would turn NaN into 0.
template <class T>
void apply_relu(const Conv2dShape& d, T* y) {
  unary_forward<T>(kOnCpu, UnaryOp::relu, d.n * d.p * d.q * d.k, y, y);
}

}  // namespace

template <>
std::size_t conv2d_forward_workspace<float>(Cpu, const Conv2dShape& shape, bool, bool) {
  return find_plan(shape, Pass::kForward)->workspace();
}

template <>
std::size_t conv2d_backward_data_workspace<float>(Cpu, const Conv2dShape& shape) {
  return find_plan(shape, Pass::kBackwardData)->workspace();
}

template <>
std::size_t conv2d_backward_weight_workspace<float>(Cpu, const Conv2dShape& shape) {
  return find_plan(shape, Pass::kBackwardWeight)->workspace();
}

template <>
void conv2d_forward<float>(Cpu, const Conv2dShape& shape, const float* x, const float* w, const float* bias, bool relu,
                           float* y, void* workspace) {
  const auto plan = find_plan(shape, Pass::kForward);
  switch (plan->method) {
    case Method::kReference: conv2d::reference_forward(shape, x, w, bias, y); break;
    case Method::kPositions: conv2d::positions_forward(shape, x, w, bias, y); break;
    case Method::kOnednn: plan->onednn->forward(x, w, bias, y, workspace); break;
  }
  if (relu) apply_relu(shape, y);
}

template <>
void conv2d_backward_data<float>(Cpu, const Conv2dShape& shape, const float* grad_y, const float* w, float* grad_x,
                                 void* workspace) {
  const auto plan = find_plan(shape, Pass::kBackwardData);
  switch (plan->method) {
    case Method::kReference: return conv2d::reference_backward_data(shape, grad_y, w, grad_x);
    case Method::kPositions: return conv2d::positions_backward_data(shape, grad_y, w, grad_x);
    case Method::kOnednn: return plan->onednn->backward_data(grad_y, w, grad_x, workspace);
  }
}

template <>
void conv2d_backward_weight<float>(Cpu, const Conv2dShape& shape, const float* x, const float* grad_y, float* grad_w,
                                   float* grad_bias, void* workspace) {
  if (grad_bias != nullptr) conv2d::bias_gradient(shape.n * shape.p * shape.q, shape.k, grad_y, grad_bias);
  const auto plan = find_plan(shape, Pass::kBackwardWeight);
  switch (plan->method) {
    case Method::kReference: return conv2d::reference_backward_weight(shape, x, grad_y, grad_w);
    case Method::kPositions: return conv2d::positions_backward_weight(shape, x, grad_y, grad_w);
    case Method::kOnednn: return plan->onednn->backward_weight(x, grad_y, grad_w, workspace);
  }
}

template <>
std::size_t conv2d_forward_workspace<double>(Cpu, const Conv2dShape&, bool, bool) {
  return 0;
}

template <>
std::size_t conv2d_backward_data_workspace<double>(Cpu, const Conv2dShape&) {
  return 0;
}

template <>
std::size_t conv2d_backward_weight_workspace<double>(Cpu, const Conv2dShape&) {
  return 0;
}

template <>
void conv2d_forward<double>(Cpu, const Conv2dShape& shape, const double* x, const double* w, const double* bias,
                            bool relu, double* y, void*) {
  conv2d::reference_forward(shape, x, w, bias, y);
  if (relu) apply_relu(shape, y);
}

template <>
void conv2d_backward_data<double>(Cpu, const Conv2dShape& shape, const double* grad_y, const double* w, double* grad_x,
                                  void*) {
  conv2d::reference_backward_data(shape, grad_y, w, grad_x);
}

template <>
void conv2d_backward_weight<double>(Cpu, const Conv2dShape& shape, const double* x, const double* grad_y,
                                    double* grad_w, double* grad_bias, void*) {
  if (grad_bias != nullptr) conv2d::bias_gradient(shape.n * shape.p * shape.q, shape.k, grad_y, grad_bias);
  conv2d::reference_backward_weight(shape, x, grad_y, grad_w);
}

}  // namespace lockstep::kernels
