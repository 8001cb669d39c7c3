// Short ways to make tensors and to read them, for tests that compare with values by hand.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <lockstep/core/ops.h>
#include <lockstep/core/tensor.h>

namespace lockstep::test {

using Values = std::vector<double>;
using Indices = std::vector<std::int64_t>;

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInf = std::numeric_limits<double>::infinity();

inline Tensor make(const Values& values, const Shape& shape) { return Tensor::from(values, shape); }
inline Tensor make(const Values& values) { return make(values, {static_cast<std::int64_t>(values.size())}); }
/// 0, 1, 2, … in row-major order.
inline Tensor count_up(const Shape& shape, Layout layout = Layout::row_major) {
  return reshape(Tensor::arange(shape.numel()), shape).to(DType::float64).to(layout);
}
inline Values values_of(const Tensor& x) { return x.to_vector<double>(); }
inline Indices indices_of(const Tensor& x) { return x.to_vector<std::int64_t>(); }

/// Equal, NaN to NaN.
inline bool same(const Values& a, const Values& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

}  // namespace lockstep::test
