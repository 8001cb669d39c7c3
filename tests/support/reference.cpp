#include <lockstep/tests/support/reference.h>

#include <algorithm>
#include <set>

namespace lockstep::test::reference {
namespace {

std::size_t positive(int dim, int rank) { return static_cast<std::size_t>(dim < 0 ? dim + rank : dim); }

std::vector<std::int64_t> sizes_of(const Shape& shape) { return {shape.begin(), shape.end()}; }
Shape shape_of(const std::vector<std::int64_t>& sizes) { return Shape(std::span(sizes)); }

/// Calls f with every index of a shape in row-major order.
void for_each(const Shape& shape, const std::function<void(const Index&)>& f) {
  if (shape.numel() == 0) return;
  Index index(static_cast<std::size_t>(shape.rank()), 0);
  for (std::int64_t i = 0; i < shape.numel(); ++i) {
    f(index);
    for (int d = shape.rank() - 1; d >= 0; --d) {
      std::int64_t& digit = index[static_cast<std::size_t>(d)];
      if (++digit < shape[d]) break;
      digit = 0;
    }
  }
}

}  // namespace

double Values::at(const Index& index) const {
  std::int64_t position = 0;
  for (int d = 0; d < shape_.rank(); ++d) position = position * shape_[d] + index[static_cast<std::size_t>(d)];
  return values_[static_cast<std::size_t>(position)];
}

double Values::repeated_at(const Index& index) const {
  Index own(index.end() - shape_.rank(), index.end());
  for (int d = 0; d < shape_.rank(); ++d) {
    if (shape_[d] == 1) own[static_cast<std::size_t>(d)] = 0;
  }
  return at(own);
}

Tensor tabulate(const Shape& shape, const std::function<double(const Index&)>& value) {
  std::vector<double> values;
  for_each(shape, [&](const Index& index) { values.push_back(value(index)); });
  return Tensor::from(values, shape);
}

Tensor map(const Tensor& x, const std::function<double(double)>& f) {
  std::vector<double> values = x.to_vector<double>();
  for (double& value : values) value = f(value);
  return Tensor::from(values, x.shape());
}

Tensor map(const Tensor& a, const Tensor& b, const std::function<double(double, double)>& f) {
  std::vector<std::int64_t> sizes = sizes_of(a.shape()), other = sizes_of(b.shape());
  if (sizes.size() < other.size()) std::swap(sizes, other);
  for (std::size_t i = 0; i < other.size(); ++i) {
    std::int64_t& size = sizes[sizes.size() - 1 - i];
    if (size == 1) size = other[other.size() - 1 - i];
  }
  const Values va(a), vb(b);
  return tabulate(shape_of(sizes), [&](const Index& i) { return f(va.repeated_at(i), vb.repeated_at(i)); });
}

Tensor reshape(const Tensor& x, const Shape& shape) { return Tensor::from(x.to_vector<double>(), shape); }

Tensor transpose(const Tensor& x, int dim0, int dim1) {
  const std::size_t a = positive(dim0, x.rank()), b = positive(dim1, x.rank());
  std::vector<std::int64_t> sizes = sizes_of(x.shape());
  std::swap(sizes[a], sizes[b]);
  const Values v(x);
  return tabulate(shape_of(sizes), [&](Index i) {
    std::swap(i[a], i[b]);
    return v.at(i);
  });
}

Tensor narrow(const Tensor& x, int dim, std::int64_t start, std::int64_t length) {
  const std::size_t d = positive(dim, x.rank());
  std::vector<std::int64_t> sizes = sizes_of(x.shape());
  sizes[d] = length;
  const Values v(x);
  return tabulate(shape_of(sizes), [&](Index i) {
    i[d] += start;
    return v.at(i);
  });
}

Tensor cat(const std::vector<Tensor>& parts, int dim) {
  const std::size_t d = positive(dim, parts[0].rank());
  std::vector<std::int64_t> sizes = sizes_of(parts[0].shape());
  sizes[d] = 0;
  std::vector<Values> values;
  for (const Tensor& part : parts) {
    sizes[d] += part.size(dim);
    values.emplace_back(part);
  }
  return tabulate(shape_of(sizes), [&](Index i) {
    std::size_t part = 0;
    for (; i[d] >= parts[part].size(dim); ++part) i[d] -= parts[part].size(dim);
    return values[part].at(i);
  });
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  const Values v(x);
  return tabulate(shape, [&](const Index& i) { return v.repeated_at(i); });
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  std::vector<int> dims;
  const int missing = x.rank() - shape.rank();
  for (int d = 0; d < x.rank(); ++d) {
    if (d < missing || shape[d - missing] != x.size(d)) dims.push_back(d);
  }
  return reshape(reduce(x, dims, true, sum), shape);
}

Tensor reduce(const Tensor& x, const std::vector<int>& dims, bool keepdim,
              const std::function<double(const std::vector<double>&)>& f) {
  std::set<std::size_t> reduced;
  for (const int dim : dims) reduced.insert(positive(dim, x.rank()));
  std::vector<std::int64_t> outer, inner;  // the sizes with 1 for those reduced, and with 1 for the others
  std::vector<std::int64_t> result;
  for (std::size_t d = 0; d < static_cast<std::size_t>(x.rank()); ++d) {
    const std::int64_t size = x.shape()[static_cast<int>(d)];
    outer.push_back(reduced.count(d) ? 1 : size);
    inner.push_back(reduced.count(d) ? size : 1);
    if (keepdim || !reduced.count(d)) result.push_back(outer.back());
  }
  const Values v(x);
  const Tensor kept = tabulate(shape_of(outer), [&](const Index& from) {
    std::vector<double> values;
    for_each(shape_of(inner), [&](Index i) {
      for (std::size_t d = 0; d < i.size(); ++d) i[d] += from[d];
      values.push_back(v.at(i));
    });
    return f(values);
  });
  return reshape(kept, shape_of(result));
}

double sum(const std::vector<double>& values) {
  long double total = 0.0L;  // adding a hundred thousand doubles in a row would lose more than the library does
  for (const double value : values) total += value;
  return static_cast<double>(total);
}

double mean(const std::vector<double>& values) { return sum(values) / static_cast<double>(values.size()); }

double max(const std::vector<double>& values) { return *std::max_element(values.begin(), values.end()); }

Tensor matmul(const Tensor& a, const Tensor& b) {
  const Values va(a), vb(b);
  return tabulate(a.shape().with(-1, b.size(-1)), [&](const Index& i) {
    Index ia = i, ib = i;
    double total = 0.0;
    for (std::int64_t k = 0; k < a.size(-1); ++k) {
      ia[i.size() - 1] = ib[i.size() - 2] = k;
      total += va.at(ia) * vb.at(ib);
    }
    return total;
  });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Values vx(x), vw(weight);
  const std::vector<double> shift = bias.defined() ? bias.to_vector<double>() : std::vector<double>();
  return tabulate(x.shape().with(-1, weight.size(0)), [&](const Index& i) {
    Index ix = i, iw = {i.back(), 0};
    double total = bias.defined() ? shift[static_cast<std::size_t>(i.back())] : 0.0;
    for (std::int64_t k = 0; k < weight.size(1); ++k) {
      ix.back() = iw.back() = k;
      total += vx.at(ix) * vw.at(iw);
    }
    return total;
  });
}

}  // namespace lockstep::test::reference
