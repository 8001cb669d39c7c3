// What elementwise, shape, reduction and product ops must give, by the plainest loops over float64 values: every result
// is a function of its index, and nothing here is shared with the library. Results are row-major.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <lockstep/core/tensor.h>

namespace lockstep::test::reference {

using Index = std::vector<std::int64_t>;

/// The values of a tensor by index.
class Values {
 public:
  explicit Values(const Tensor& x) : shape_(x.shape()), values_(x.to_vector<double>()) {}
  double at(const Index& index) const;
  /// As if the tensor had been repeated to more and larger dimensions: broadcasting.
  double repeated_at(const Index& index) const;

 private:
  Shape shape_;
  std::vector<double> values_;
};

/// The tensor with `value(index)` at every index.
Tensor tabulate(const Shape& shape, const std::function<double(const Index&)>& value);

Tensor map(const Tensor& x, const std::function<double(double)>& f);
Tensor map(const Tensor& a, const Tensor& b, const std::function<double(double, double)>& f);

Tensor reshape(const Tensor& x, const Shape& shape);
Tensor transpose(const Tensor& x, int dim0, int dim1);
Tensor narrow(const Tensor& x, int dim, std::int64_t start, std::int64_t length);
Tensor cat(const std::vector<Tensor>& parts, int dim);
Tensor broadcast_to(const Tensor& x, const Shape& shape);
Tensor sum_to(const Tensor& x, const Shape& shape);

/// f of the values that share an index but for `dims`, in row-major order.
Tensor reduce(const Tensor& x, const std::vector<int>& dims, bool keepdim,
              const std::function<double(const std::vector<double>&)>& f);
double sum(const std::vector<double>& values);
double mean(const std::vector<double>& values);
double max(const std::vector<double>& values);

Tensor matmul(const Tensor& a, const Tensor& b);
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);

}  // namespace lockstep::test::reference
