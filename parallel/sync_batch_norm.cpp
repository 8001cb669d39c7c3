#include <lockstep/parallel/sync_batch_norm.h>

#include <lockstep/core/autograd/node.h>
#include <lockstep/layers/batch_norm.h>

namespace lockstep {
namespace {

/// The sum of all ranks' x. What depends on it on any rank depends on every x: the gradient is the sum of theirs.
Tensor all_reduce_sum(const Tensor& x, ProcessGroup& group) {
  const Tensor y = x.detach().clone();
  group.all_reduce(y).wait();
  if (must_record(x)) {
    record("all_reduce", y, {&x}, [&group](GradContext& context) {
      Tensor grad = context.grad.clone();
      group.all_reduce(grad).wait();
      context.set(0, std::move(grad));
    });
  }
  return y;
}

}  // namespace

void convert_sync_batch_norm(Module& module, ProcessGroup& group) {
  for (const auto& [name, child] : module.named_modules()) {
    if (auto* norm = dynamic_cast<BatchNorm*>(child)) {
      norm->synchronize([&group](const Tensor& x) { return all_reduce_sum(x, group); });
    }
  }
}

}  // namespace lockstep
