#include <lockstep/core/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/sgd.h>

namespace lockstep {

namespace {

/// What is wrong with the options, or "".
std::string problem_of(const SGD::Options& o) {
  const auto bad = [](double value) { return !(std::isfinite(value) && value >= 0.0); };
  if (bad(o.lr)) return fmt::format("expected lr >= 0, got {}", o.lr);
  if (bad(o.momentum)) return fmt::format("expected momentum >= 0, got {}", o.momentum);
  if (bad(o.weight_decay)) return fmt::format("expected weight_decay >= 0, got {}", o.weight_decay);
  if (!std::isfinite(o.dampening)) return fmt::format("expected a finite dampening, got {}", o.dampening);
  if (o.nesterov && (o.momentum == 0.0 || o.dampening != 0.0)) {
    return fmt::format("nesterov expects momentum > 0 and dampening = 0, got {} and {}", o.momentum, o.dampening);
  }
  return {};
}

void check_options(const SGD::Options& options) {
  const std::string problem = problem_of(options);
  LOCKSTEP_CHECK(problem.empty(), ValueError, "SGD", "{}", problem);
}

/// Updates the parameters of one dtype on one device that have a gradient.
template <class T>
void step_kind(auto on, Device device, const std::vector<Tensor>& params, std::vector<Tensor>& buffers,
               SgdOptions options) {
  std::vector<SgdTensor<T>> first, later;  // by whether the momentum buffer is new
  std::vector<Tensor> grads;               // keeps converted ones
  for (std::size_t i = 0; i < params.size(); ++i) {
    const Tensor& param = params[i];
    if (param.dtype() != dtype_of<T> || param.device() != device) continue;
    const Tensor grad = param.grad();
    if (!grad.defined()) continue;
    grads.push_back(grad.to(param.layout()));
    const bool is_new = options.momentum != 0.0 && !buffers[i].defined();
    if (is_new) buffers[i] = Tensor::empty(param.shape(), param.options());
    T* buffer = options.momentum != 0.0 ? buffers[i].data<T>() : nullptr;
    (is_new ? first : later).push_back({param.data<T>(), grads.back().data<T>(), buffer, param.numel()});
    detail::bump_version(param);
  }
  if (!later.empty()) kernels::sgd_step<T>(on, later, options);
  options.first_step = true;
  if (!first.empty()) kernels::sgd_step<T>(on, first, options);
}

/// Updates the parameters that have a gradient, all of one dtype on one device together.
void step_group(const std::vector<Tensor>& params, std::vector<Tensor>& buffers, const SgdOptions& options) {
  std::vector<const Tensor*> kinds;  // the first of each
  for (const Tensor& param : params) {
    const bool known = std::any_of(kinds.begin(), kinds.end(), [&](const Tensor* kind) {
      return kind->dtype() == param.dtype() && kind->device() == param.device();
    });
    if (!known) kinds.push_back(&param);
  }
  for (const Tensor* kind : kinds) {
    dispatch_floating("SGD", *kind,
                      [&]<class T>(auto on) { step_kind<T>(on, kind->device(), params, buffers, options); });
  }
}

/// The options that are saved, under PyTorch's names.
constexpr std::pair<const char*, double SGD::Options::*> kSavedOptions[] = {
    {"lr", &SGD::Options::lr},
    {"momentum", &SGD::Options::momentum},
    {"dampening", &SGD::Options::dampening},
    {"weight_decay", &SGD::Options::weight_decay}};

}  // namespace

SGD::SGD(std::vector<Tensor> params, const Options& options)
    : SGD(std::vector<ParamGroup>{{std::move(params), options}}) {}

SGD::SGD(std::vector<ParamGroup> groups)
    : Optimizer("SGD", [&] {
        std::vector<Group> base;
        for (ParamGroup& group : groups) {
          base.push_back({std::move(group.params), group.options.lr, group.options.lr});
        }
        return base;
      }()) {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    check_options(groups[i].options);
    options_.push_back(groups[i].options);
    momentum_buffers_.emplace_back(groups_[i].params.size());
  }
}

SGD::Options SGD::options(std::size_t index) const {
  const double lr = group(index).lr;
  Options options = options_[index];
  options.lr = lr;
  return options;
}

void SGD::set_options(std::size_t index, const Options& options) {
  group(index);
  check_options(options);
  options_[index] = options;
  groups_[index].lr = options.lr;
}

void SGD::step() {
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const Options& o = options_[i];
    const SgdOptions options{.lr = groups_[i].lr,
                             .momentum = o.momentum,
                             .dampening = o.dampening,
                             .weight_decay = o.weight_decay,
                             .nesterov = o.nesterov};
    step_group(groups_[i].params, momentum_buffers_[i], options);
  }
}

StateDict SGD::state_dict() const {
  const auto scalar = [](double value) { return Tensor::full({}, value, {.dtype = DType::float64}); };
  StateDict state;
  std::size_t index = 0;
  for (const auto& buffers : momentum_buffers_) {
    for (const Tensor& buffer : buffers) {
      if (buffer.defined()) state.insert(fmt::format("state.{}.momentum_buffer", index), buffer);
      ++index;
    }
  }
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const Options group_options = options(i);
    for (const auto& [name, option] : kSavedOptions) {
      state.insert(fmt::format("param_groups.{}.{}", i, name), scalar(group_options.*option));
    }
    state.insert(fmt::format("param_groups.{}.nesterov", i), scalar(group_options.nesterov ? 1.0 : 0.0));
  }
  return state;
}

void SGD::load_state_dict(const StateDict& state) {
  std::string problems;
  std::unordered_set<std::string> known;
  const auto find = [&](const std::string& name) {
    known.insert(name);
    return state.find(name);
  };
  const auto read_number = [&](const std::string& name) {
    const Tensor* tensor = find(name);
    if (tensor && tensor->defined() && tensor->numel() == 1) return tensor->item();
    problems += fmt::format("\n  {}: {}", tensor ? "expected one number" : "missing", name);
    return 0.0;
  };
  std::vector<Options> new_options;
  std::vector<std::vector<Tensor>> new_buffers(groups_.size());
  std::size_t index = 0;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const std::string prefix = fmt::format("param_groups.{}.", i);
    Options& options = new_options.emplace_back();
    for (const auto& [name, option] : kSavedOptions) options.*option = read_number(prefix + name);
    options.nesterov = read_number(prefix + "nesterov") != 0.0;
    if (const std::string problem = problem_of(options); !problem.empty()) {
      problems += fmt::format("\n  param_groups.{}: {}", i, problem);
    }
    for (const Tensor& param : groups_[i].params) {
      const std::string name = fmt::format("state.{}.momentum_buffer", index++);
      Tensor& buffer = new_buffers[i].emplace_back();
      const Tensor* saved = find(name);
      if (saved && saved->defined() && saved->shape() == param.shape()) {
        buffer = Tensor::empty(param.shape(), param.options());
        buffer.copy_(*saved);
      } else if (saved) {
        problems += fmt::format("\n  wrong shape: {}: expected {}, got {}", name, to_string(param.shape()),
                                saved->defined() ? to_string(saved->shape()) : "an undefined tensor");
      }
    }
  }
  for (const auto& [name, tensor] : state) {
    if (!known.contains(name)) problems += "\n  unexpected: " + name;
  }
  LOCKSTEP_CHECK(problems.empty(), StateDictError, "load_state_dict", "the state does not fit this SGD:{}", problems);
  for (std::size_t i = 0; i < groups_.size(); ++i) set_options(i, new_options[i]);
  momentum_buffers_ = std::move(new_buffers);
}

}  // namespace lockstep
