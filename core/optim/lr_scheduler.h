// Learning rates over time (torch.optim.lr_scheduler), in closed form: a rate depends on a count of steps or epochs
// alone, so that resuming a run needs nothing but that count.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <lockstep/core/optim/optimizer.h>

namespace lockstep {

/// The rate after `count` steps of the schedule, from a group's initial rate. Any function will do: these are the usual
/// ones.
using LrSchedule = std::function<double(double initial_lr, std::int64_t count)>;

/// StepLR: times gamma every `step_size` counts.
LrSchedule step_lr(std::int64_t step_size, double gamma = 0.1);
/// MultiStepLR: times gamma at each of the milestones, given in any order; one given twice counts twice.
LrSchedule multi_step_lr(std::vector<std::int64_t> milestones, double gamma = 0.1);
/// CosineAnnealingLR: half a cosine from the initial rate to `eta_min` at count `t_max`, and back up after that.
LrSchedule cosine_annealing_lr(std::int64_t t_max, double eta_min = 0.0);
/// LinearLR, the warm-up: from start_factor · rate to end_factor · rate in `total_iters` counts, constant after that.
LrSchedule linear_lr(double start_factor = 1.0 / 3.0, double end_factor = 1.0, std::int64_t total_iters = 5);
/// SequentialLR: one schedule after the other, each starting at 0 again at its milestone:
/// `sequential_lr({linear_lr(0.1, 1.0, 5), cosine_annealing_lr(85)}, {5})`. Takes one milestone fewer than schedules,
/// rising.
LrSchedule sequential_lr(std::vector<LrSchedule> schedules, std::vector<std::int64_t> milestones);

/// Drives the rates of an optimizer, all its groups, by a schedule. All of the above throw ValueError for values out of
/// range.
class LrScheduler {
 public:
  /// Sets the rates for count 0. `optimizer` must outlive this.
  LrScheduler(Optimizer& optimizer, LrSchedule schedule);

  /// Counts on by one and sets the rates. Call it after Optimizer::step(), once per step or once per epoch.
  void step() { set_count(count_ + 1); }
  std::int64_t count() const { return count_; }  ///< counts so far
  /// Goes to any count, e.g. to that of a run being resumed. Throws ValueError if it is negative.
  void set_count(std::int64_t count);

 private:
  Optimizer* optimizer_;
  LrSchedule schedule_;
  std::int64_t count_ = 0;
};

}  // namespace lockstep
