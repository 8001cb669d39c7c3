#include <lockstep/parallel/data_parallel.h>

#include <algorithm>
#include <utility>

#include <lockstep/core/autograd/node.h>
#include <lockstep/core/base/check.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/parallel/local_process_group.h>
#include <lockstep/parallel/replica_scope.h>
#include <lockstep/parallel/team.h>

namespace lockstep {
namespace {

std::vector<Device> default_devices(std::int64_t replicas) {
  const bool on_cuda = cuda_device_count() > 0;
  const std::int64_t there = on_cuda ? cuda_device_count() : replicas > 0 ? num_threads() : 1;
  const std::int64_t count = replicas > 0 ? std::min(replicas, there) : there;
  std::vector<Device> devices;
  for (int i = 0; i < count; ++i) devices.push_back(on_cuda ? Device{Device::Type::cuda, i} : kCpu);
  return devices;
}

}  // namespace

/// The copies of the module, the threads that run them, and the reducers of their gradients.
class DataParallel::Engine : public std::enable_shared_from_this<Engine> {
 public:
  Engine(const detail::ModuleBox& module, const ReplicaOptions& options, const std::vector<Device>& devices)
      : main_(*module.get()),
        options_(options),
        devices_(devices),
        groups_(LocalProcessGroup::create(devices)),
        team_(devices.size()),
        key_(key_of(main_)) {
    for (std::size_t d = 0; d < devices.size(); ++d) copies_.push_back(make_copy(module, d));
    for (auto& [name, tensor] : main_.named_parameters()) {
      if (tensor.requires_grad()) trained_.push_back(tensor);
    }
  }

  /// Whether it was made for these parameters.
  bool fits(const Module& module) const { return !failed_ && key_ == key_of(module); }
  ReducerStats stats() const { return copies_[0].reducer ? copies_[0].reducer->stats() : ReducerStats{}; }

  Tensor forward(const Tensor& x) {
    LOCKSTEP_CHECK(x.defined() && x.rank() >= 1, ShapeError, "DataParallel", "expected x [N, ...]");
    Generator& generator = default_generator();
    const std::uint64_t seed = generator.seed, step = generator.draws++;
    const bool records = grad_enabled();
    auto pass = std::make_shared<Pass>();
    pass->rows = x.size(0);
    pass->inputs.resize(static_cast<std::size_t>(options_.replicas));
    pass->outputs.resize(pass->inputs.size());
    refresh_copies();
    run([&](std::size_t d) {
      const GradModeGuard grad_mode(records);
      Copy& copy = copies_[d];
      std::vector<Tensor> kept;  // buffers as replica 0 leaves them
      for (std::int64_t r = copy.own.begin; r < copy.own.end; ++r) {
        const Run rows = part_of(pass->rows, options_.replicas, r);
        if (rows.size() > 0) {
          const detail::ReplicaScope scope(seed, step, r, options_.threads);
          const auto i = static_cast<std::size_t>(r);
          pass->inputs[i] = detail::rows_on(x, rows, devices_[d]);
          if (records && x.requires_grad()) pass->inputs[i].set_requires_grad();
          pass->outputs[i] = (*copy.module.get())(pass->inputs[i]);
        }
        if (r == 0) {
          for (const Tensor& buffer : copy.buffers) kept.push_back(buffer.detach().clone());
        }
      }
      if (copy.own.size() > 1) {
        for (std::size_t i = 0; i < kept.size(); ++i) copy.buffers[i].detach().copy_(kept[i]);
      }
    });
    const Tensor y = gather(pass->outputs, pass->rows);
    const bool needed = std::any_of(pass->outputs.begin(), pass->outputs.end(),
                                    [](const Tensor& output) { return output.defined() && output.requires_grad(); });
    if (needed) {
      record("data_parallel", y, {&x},
             [engine = shared_from_this(), pass](GradContext& context) { engine->backward(*pass, context); });
    }
    return y;
  }

 private:
  struct Copy {
    detail::ModuleBox module;
    std::vector<Tensor> parameters, buffers;  // of the copy, in the order of the module's own
    std::vector<Module*> modules;             // likewise
    std::unique_ptr<Reducer> reducer;         // none if nothing is trained
    Run own;                                  // replicas
  };
  /// One forward, kept until its backward.
  struct Pass {
    std::vector<Tensor> inputs, outputs;  // of the replicas; undefined for those without rows
    std::int64_t rows = 0;
  };

  /// What the copies were made for.
  static std::vector<std::pair<const void*, bool>> key_of(const Module& module) {
    std::vector<std::pair<const void*, bool>> key;
    for (const Tensor& parameter : module.parameters()) key.emplace_back(parameter.impl(), parameter.requires_grad());
    for (const auto& [name, buffer] : module.named_buffers()) key.emplace_back(buffer.impl(), false);
    return key;
  }

  Copy make_copy(const detail::ModuleBox& module, std::size_t d) {
    const Device device = devices_[d];
    Copy result{module, {}, {}, {}, nullptr, part_of(options_.replicas, groups_[d]->size(), static_cast<int>(d))};
    std::vector<const void*> buffers;
    for (const auto& [name, buffer] : main_.named_buffers()) buffers.push_back(buffer.impl());
    Module& copy = *result.module.get();
    copy.convert_tensors([&](const Tensor& x) {
      if (std::find(buffers.begin(), buffers.end(), x.impl()) == buffers.end()) {
        return x.to(device).detach();  // another leaf, over the same memory if it is there
      }
      if (d == 0) return x;
      return is_floating(x.dtype()) && x.device() != device ? x.to(device) : x.clone();
    });
    for (auto& [name, tensor] : copy.named_parameters()) result.parameters.push_back(tensor);
    for (auto& [name, tensor] : copy.named_buffers()) result.buffers.push_back(tensor);
    for (auto& [name, child] : copy.named_modules()) result.modules.push_back(child);
    std::vector<Tensor> trained;
    for (const Tensor& parameter : result.parameters) {
      if (parameter.requires_grad()) trained.push_back(parameter);
    }
    if (!trained.empty()) result.reducer = std::make_unique<Reducer>(trained, *groups_[d], options_);
    return result;
  }

  /// Modes, buffers, and the parameters of copies with memory of their own, as they are in the module now.
  void refresh_copies() {
    const NoGradGuard no_grad;
    const auto modules = main_.named_modules();
    const auto parameters = main_.parameters();
    const auto buffers = main_.named_buffers();
    for (Copy& copy : copies_) {
      for (std::size_t i = 0; i < modules.size(); ++i) {  // parents come first
        const bool training = modules[i].second->is_training();
        if (copy.modules[i]->is_training() != training) copy.modules[i]->train(training);
      }
      const auto refresh = [](const Tensor& from, const Tensor& to) {
        if (from.data_ptr() != to.data_ptr()) to.detach().copy_(from);
      };
      for (std::size_t i = 0; i < parameters.size(); ++i) refresh(parameters[i], copy.parameters[i]);
      for (std::size_t i = 0; i < buffers.size(); ++i) refresh(buffers[i].second, copy.buffers[i]);
    }
  }

  /// The rows of all replicas, one after the other, on the first device.
  Tensor gather(const std::vector<Tensor>& parts, std::int64_t rows) const {
    const NoGradGuard no_grad;
    const auto first = std::find_if(parts.begin(), parts.end(), [](const Tensor& part) { return part.defined(); });
    LOCKSTEP_CHECK(first->rank() >= 1, ShapeError, "DataParallel", "expected the module to give [N, ...], got {}",
                   to_string(first->shape()));
    TensorOptions options = first->options();
    options.device = devices_[0];
    const Tensor all = Tensor::empty(first->shape().with(0, rows), options);
    std::int64_t row = 0;
    for (const Tensor& part : parts) {
      if (!part.defined()) continue;
      narrow(all, 0, row, part.size(0)).copy_(part);
      row += part.size(0);
    }
    return all;
  }

  void backward(Pass& pass, GradContext& context) {
    run([&](std::size_t d) {
      const NoGradGuard no_grad;
      Copy& copy = copies_[d];
      for (std::int64_t r = copy.own.begin; r < copy.own.end; ++r) {
        const Tensor& y = pass.outputs[static_cast<std::size_t>(r)];
        if (!y.defined() || !y.requires_grad()) {
          if (copy.reducer) copy.reducer->skip();
          continue;
        }
        const detail::ReplicaScope scope(0, 0, r, options_.threads);  // for the threads: a backward draws nothing
        const Tensor grad = detail::rows_on(context.grad, part_of(pass.rows, options_.replicas, r), y.device());
        copy.reducer ? copy.reducer->backward(y, grad) : y.backward(grad);
      }
      if (copy.reducer) copy.reducer->finish();
    });
    hand_over();
    if (context.needs(0)) {
      std::vector<Tensor> grads;
      for (const Tensor& input : pass.inputs) {
        const Tensor grad = input.defined() ? input.grad() : Tensor();
        grads.push_back(input.defined() && !grad.defined() ? Tensor::zeros(input.shape(), input.options()) : grad);
      }
      context.set(0, gather(grads, pass.rows));
    }
  }

  /// The first device's gradients become the module's own, those of the others are dropped.
  void hand_over() {
    for (Copy& copy : copies_) {
      std::size_t i = 0;
      for (const Tensor& parameter : copy.parameters) {
        if (!parameter.requires_grad()) continue;
        const Tensor grad = parameter.grad();
        parameter.set_grad({});
        const Tensor& own = trained_[i++];
        if (&copy != &copies_[0] || !grad.defined()) continue;
        own.grad().defined() ? static_cast<void>(own.grad().add_(grad)) : own.set_grad(grad);
        static_cast<detail::LeafNode&>(*own.impl()->node).announce();
      }
    }
  }

  void run(const std::function<void(std::size_t)>& body) {
    const bool anomaly = anomaly_enabled();
    const auto follow = [&](std::size_t d) {
      const AnomalyMode mode(anomaly);
      body(d);
    };
    team_.run(follow, [&](const std::exception& error) {
      failed_ = true;  // collectives are at different places now: the next forward makes new ones
      groups_[0]->abort(fmt::format("a replica failed: {}", error.what()));
    });
  }

  Module& main_;
  ReplicaOptions options_;
  std::vector<Device> devices_;
  std::vector<std::unique_ptr<LocalProcessGroup>> groups_;
  detail::Team team_;
  std::atomic<bool> failed_{false};
  std::vector<std::pair<const void*, bool>> key_;
  std::vector<Copy> copies_;
  std::vector<Tensor> trained_;  // the module's own
};

DataParallel::DataParallel(detail::ModuleBox module, const ReplicaOptions& options, std::vector<Device> devices)
    : options_(options), devices_(devices.empty() ? default_devices(options.replicas) : std::move(devices)) {
  const auto count = static_cast<std::int64_t>(devices_.size());
  if (options_.replicas == 0) options_.replicas = count;
  LOCKSTEP_CHECK(options_.replicas >= count, ValueError, "DataParallel",
                 "expected at least as many replicas as devices, {}, got {}", count, options_.replicas);
  if (options_.threads == 0) options_.threads = options_.replicas > 1 ? 1 : num_threads();
  register_module("module", std::move(module));
  LocalProcessGroup::create(devices_);  // checks them
  this->module().to(devices_[0]);
}
DataParallel::DataParallel(DataParallel&&) noexcept = default;
DataParallel::~DataParallel() = default;

Tensor DataParallel::forward(const Tensor& x) {
  if (options_.replicas == 1 || (x.defined() && x.rank() > 0 && x.size(0) == 0)) return module()(x);
  if (!engine_ || !engine_->fits(module())) engine_ = std::make_shared<Engine>(owned_child(0), options_, devices_);
  return engine_->forward(x);
}

ReducerStats DataParallel::stats() const { return engine_ ? engine_->stats() : ReducerStats{}; }

}  // namespace lockstep
