#include <lockstep/core/optim/lr_scheduler.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include <lockstep/core/base/check.h>

namespace lockstep {

LrSchedule step_lr(std::int64_t step_size, double gamma) {
  LOCKSTEP_CHECK(step_size > 0, ValueError, "step_lr", "expected a positive step_size, got {}", step_size);
  return [=](double initial_lr, std::int64_t count) {
    return initial_lr * std::pow(gamma, static_cast<double>(count / step_size));
  };
}

LrSchedule multi_step_lr(std::vector<std::int64_t> milestones, double gamma) {
  std::ranges::sort(milestones);
  return [milestones = std::move(milestones), gamma](double initial_lr, std::int64_t count) {
    const auto passed = std::ranges::upper_bound(milestones, count) - milestones.begin();
    return initial_lr * std::pow(gamma, static_cast<double>(passed));
  };
}

LrSchedule cosine_annealing_lr(std::int64_t t_max, double eta_min) {
  LOCKSTEP_CHECK(t_max > 0, ValueError, "cosine_annealing_lr", "expected a positive t_max, got {}", t_max);
  return [=](double initial_lr, std::int64_t count) {
    const double angle = std::numbers::pi * static_cast<double>(count) / static_cast<double>(t_max);
    return eta_min + (initial_lr - eta_min) * (1.0 + std::cos(angle)) / 2.0;
  };
}

LrSchedule linear_lr(double start_factor, double end_factor, std::int64_t total_iters) {
  LOCKSTEP_CHECK(start_factor > 0.0 && start_factor <= 1.0, ValueError, "linear_lr",
                 "expected a start_factor in (0, 1], got {}", start_factor);
  LOCKSTEP_CHECK(end_factor >= 0.0 && end_factor <= 1.0, ValueError, "linear_lr",
                 "expected an end_factor in [0, 1], got {}", end_factor);
  LOCKSTEP_CHECK(total_iters > 0, ValueError, "linear_lr", "expected a positive total_iters, got {}", total_iters);
  return [=](double initial_lr, std::int64_t count) {
    const double done = static_cast<double>(std::min(count, total_iters)) / static_cast<double>(total_iters);
    return initial_lr * (start_factor + (end_factor - start_factor) * done);
  };
}

LrSchedule sequential_lr(std::vector<LrSchedule> schedules, std::vector<std::int64_t> milestones) {
  LOCKSTEP_CHECK(schedules.size() == milestones.size() + 1, ValueError, "sequential_lr",
                 "expected one milestone fewer than schedules, got {} and {}", milestones.size(), schedules.size());
  LOCKSTEP_CHECK(std::ranges::none_of(schedules, [](const LrSchedule& schedule) { return schedule == nullptr; }),
                 ValueError, "sequential_lr", "expected schedules, got an empty function");
  LOCKSTEP_CHECK(std::ranges::is_sorted(milestones), ValueError, "sequential_lr",
                 "expected rising milestones, got [{}]", fmt::join(milestones, ", "));
  return [schedules = std::move(schedules), milestones = std::move(milestones)](double initial_lr, std::int64_t count) {
    const auto next = std::ranges::upper_bound(milestones, count);
    const auto index = static_cast<std::size_t>(next - milestones.begin());
    return schedules[index](initial_lr, index == 0 ? count : count - milestones[index - 1]);
  };
}

LrScheduler::LrScheduler(Optimizer& optimizer, LrSchedule schedule)
    : optimizer_(&optimizer), schedule_(std::move(schedule)) {
  LOCKSTEP_CHECK(schedule_ != nullptr, ValueError, "LrScheduler", "expected a schedule, got an empty function");
  set_count(0);
}

void LrScheduler::set_count(std::int64_t count) {
  LOCKSTEP_CHECK(count >= 0, ValueError, "set_count", "expected a count >= 0, got {}", count);
  for (std::size_t i = 0; i < optimizer_->num_groups(); ++i) {
    optimizer_->set_lr(i, schedule_(optimizer_->initial_lr(i), count));
  }
  count_ = count;
}

}  // namespace lockstep
