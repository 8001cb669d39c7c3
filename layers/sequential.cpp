#include <lockstep/layers/sequential.h>

#include <lockstep/core/base/check.h>

namespace lockstep {

Module& Sequential::operator[](std::size_t index) const {
  LOCKSTEP_CHECK(index < size(), ValueError, "Sequential", "expected an index below {}, got {}", size(), index);
  return child(index);
}

Tensor Sequential::forward(const Tensor& x) {
  Tensor y = x;
  for (std::size_t i = 0; i < size(); ++i) y = child(i)(y);
  return y;
}

void Sequential::append(detail::ModuleBox module) { register_module(std::to_string(size()), std::move(module)); }

void Sequential::fail_type(std::size_t index, const Module& module) {
  detail::fail<ValueError>("Sequential", "module {} is a {}, not of the type asked for", index, module.type_name());
}

}  // namespace lockstep
