#include <lockstep/layers/activation.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/layers/python_repr.h>

namespace lockstep {

using detail::python_repr;

Tensor ReLU::forward(const Tensor& x) { return lockstep::relu(x); }

std::string ReLU::extra_repr() const { return inplace_ ? "inplace=True" : ""; }

Dropout::Dropout(double p, bool inplace) : p_(p), inplace_(inplace) {
  LOCKSTEP_CHECK(p >= 0.0 && p <= 1.0, ValueError, "Dropout", "expected a probability in [0, 1], got {}", p);
}

Tensor Dropout::forward(const Tensor& x) { return dropout(x, p_, is_training()); }

std::string Dropout::extra_repr() const {
  return fmt::format("p={}, inplace={}", python_repr(p_), python_repr(inplace_));
}

Tensor Flatten::forward(const Tensor& x) { return flatten(x, start_dim_, end_dim_); }

std::string Flatten::extra_repr() const { return fmt::format("start_dim={}, end_dim={}", start_dim_, end_dim_); }

}  // namespace lockstep
