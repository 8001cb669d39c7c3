// Anomaly mode: finds the op that makes the first NaN, forward or backward, and where it was called.
#pragma once

#include <span>

#include <lockstep/core/base/error.h>
#include <lockstep/core/tensor.h>

namespace lockstep {

class GradContext;

/// torch.autograd.detect_anomaly(), with NaN looked for in forward too. While one lives, on this thread:
///
/// - An op whose result has a NaN though none of its inputs has one throws AnomalyError. It names the op and the
///   functions that called it, recorded for backward or not. Changes in place are not looked at.
/// - A node of the tape whose backward makes a NaN gradient from a gradient without NaN throws AnomalyError in
///   backward(). It names the op and the functions that called it in forward, if the mode was on then.
/// - A std::exception out of a node's backward function comes out of backward() as an AnomalyError that names the same
///   and has the exception nested in it (std::rethrow_if_nested).
///
/// So a NaN that comes in with the data or the weights is nobody's fault in forward; backward names the first op that
/// it spoils the gradient of, and says that its result had NaN already.
///
///     AnomalyMode anomaly;
///     const Tensor loss = cross_entropy(model(images), labels);
///     loss.backward();
///
///     [log] expected a result without NaN from inputs without NaN, got 3 NaN among 640 elements of shape [64, 10];
///     called by
///       Net::forward(lockstep::Tensor const&) (net.cpp:31)
///       main (train.cpp:58)
///
/// For hunting bugs only: every result is read once more, and every node of the tape keeps its call stack. Files and
/// lines are named if the program is compiled with -g; see CallSite. Nestable; nothing changes for other threads.
class AnomalyMode {
 public:
  /// anomaly_enabled() is `enabled` from here on; the destructor restores it.
  explicit AnomalyMode(bool enabled = true);
  ~AnomalyMode();
  AnomalyMode(const AnomalyMode&) = delete;
  AnomalyMode& operator=(const AnomalyMode&) = delete;

 private:
  bool previous_;
};

/// Whether AnomalyMode is on, on this thread. False at the start.
bool anomaly_enabled();

namespace detail {

class Node;

/// Notes in `node` where it is recorded; throws if `output` has a NaN that no input has.
void watch_forward(Node& node, const Tensor& output, std::span<const Tensor* const> inputs);
/// Runs the backward function of `node`. AnomalyMode is off inside: what counts is which node fails, not its parts.
void watch_backward(Node& node, GradContext& context);
/// Gives input `i` of `node` its gradient, which must have no NaN, nor make one where it is added to.
void accumulate_watched(Node& node, int i, Tensor grad);
/// Where `node` was recorded, as the end of an error message; empty if that was without AnomalyMode.
std::string recorded_by(const Node& node);

}  // namespace detail
}  // namespace lockstep
