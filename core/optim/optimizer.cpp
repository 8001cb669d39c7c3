#include <lockstep/core/optim/optimizer.h>

#include <cmath>
#include <unordered_set>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>

namespace lockstep {

Optimizer::Optimizer(const char* op, std::vector<Group> groups) : groups_(std::move(groups)) {
  LOCKSTEP_CHECK(!groups_.empty(), ValueError, op, "expected parameters, got no group of them");
  std::unordered_set<const void*> seen;
  for (const Group& group : groups_) {
    LOCKSTEP_CHECK(!group.params.empty(), ValueError, op, "expected parameters, got an empty list");
    for (const Tensor& param : group.params) {
      require_defined(op, param, "a parameter");
      LOCKSTEP_CHECK(param.is_leaf(), ValueError, op, "expected leaves, got the result of an op, of shape {}",
                     to_string(param.shape()));
      require_floating(op, param);
      LOCKSTEP_CHECK(seen.insert(param.impl()).second, ValueError, op,
                     "expected each parameter once, got one of shape {} twice", to_string(param.shape()));
    }
  }
}

void Optimizer::zero_grad() {
  for (const Group& group : groups_) {
    for (const Tensor& param : group.params) {
      if (param.requires_grad()) param.set_grad({});
    }
  }
}

const Optimizer::Group& Optimizer::group(std::size_t index) const {
  LOCKSTEP_CHECK(index < groups_.size(), ValueError, "Optimizer", "expected a group below {}, got {}", groups_.size(),
                 index);
  return groups_[index];
}

const std::vector<Tensor>& Optimizer::params(std::size_t index) const { return group(index).params; }
double Optimizer::lr(std::size_t index) const { return group(index).lr; }
double Optimizer::initial_lr(std::size_t index) const { return group(index).initial_lr; }

void Optimizer::set_lr(std::size_t index, double lr) {
  group(index);
  LOCKSTEP_CHECK(std::isfinite(lr) && lr >= 0.0, ValueError, "set_lr", "expected a learning rate >= 0, got {}", lr);
  groups_[index].lr = lr;
}

void Optimizer::set_lr(double lr) {
  for (std::size_t i = 0; i < groups_.size(); ++i) set_lr(i, lr);
}

}  // namespace lockstep
