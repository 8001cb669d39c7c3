// What training loops, learning-rate schedules and checkpoints need of an optimizer.
#pragma once

#include <cstdint>
#include <vector>

#include <lockstep/core/io/state_dict.h>
#include <lockstep/core/tensor.h>

namespace lockstep {

/// Changes parameters by their gradients. Parameters come in groups, each with options of its own; the tensors are
/// handles, shared with the model. Gradients are read and never changed.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Updates every parameter that has a gradient.
  virtual void step() = 0;
  /// Drops the gradients of all parameters.
  void zero_grad();

  std::size_t num_groups() const { return groups_.size(); }  ///< at least 1
  /// Throws ValueError if there is no such group, as all that take one do.
  const std::vector<Tensor>& params(std::size_t group) const;

  /// The learning rate now.
  double lr(std::size_t group = 0) const;
  /// Throws ValueError unless `lr` is finite and not negative.
  void set_lr(std::size_t group, double lr);
  /// Sets it for all groups.
  void set_lr(double lr);
  /// The learning rate that the group was made with: what schedules scale.
  double initial_lr(std::size_t group) const;

  /// Everything that the next steps depend on apart from the parameters: options as float64 scalars
  /// ("param_groups.0.lr"), state by index over all groups ("state.7.momentum_buffer"). Shares memory with the
  /// optimizer.
  virtual StateDict state_dict() const = 0;
  /// Copies such a state back; the learning rates come with it, initial_lr() stays. Throws StateDictError listing all
  /// that does not fit, and then changes nothing.
  virtual void load_state_dict(const StateDict& state) = 0;

 protected:
  /// Parameters that share a learning rate.
  struct Group {
    std::vector<Tensor> params;
    double lr;
    double initial_lr;
  };

  /// Throws ValueError naming `op` for no group, a group without parameters, an undefined tensor, one that is not a
  /// leaf, one that occurs twice; DTypeError for a dtype other than float32 and float64.
  Optimizer(const char* op, std::vector<Group> groups);

  const Group& group(std::size_t index) const;  ///< throws ValueError if there is none

  std::vector<Group> groups_;
};

}  // namespace lockstep
