#include <lockstep/tests/support/reference_image.h>

#include <algorithm>
#include <limits>
#include <vector>

#include <lockstep/tests/support/reference.h>

namespace lockstep::test::reference {
namespace {

/// The values of a tensor of four dimensions.
class Image {
 public:
  explicit Image(const Tensor& x)
      : channels_(x.size(1)), height_(x.size(2)), width_(x.size(3)), values_(x.to_vector<double>()) {}

  bool has(std::int64_t h, std::int64_t w) const { return h >= 0 && h < height_ && w >= 0 && w < width_; }
  double at(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return values_[static_cast<std::size_t>(((n * channels_ + c) * height_ + h) * width_ + w)];
  }

 private:
  std::int64_t channels_, height_, width_;
  std::vector<double> values_;
};

/// The windows along one dimension: window i looks at start(i), start(i) + dilation, …
struct Windows {
  std::int64_t size, kernel, stride, padding, dilation;

  std::int64_t start(std::int64_t i) const { return i * stride - padding; }
  std::int64_t end(std::int64_t i) const { return start(i) + dilation * (kernel - 1) + 1; }

  /// As many as fit; with `ceil` one more if that leaves something over, and if it starts before the far padding.
  std::int64_t count(bool ceil) const {
    std::int64_t i = 0;
    while (end(i) <= size + padding) ++i;
    const bool covered = i > 0 && end(i - 1) == size + padding;
    return ceil && !covered && start(i) < size ? i + 1 : i;
  }
};

Windows windows(const Tensor& x, const Pool2dOptions& o, std::size_t d) {
  return {x.size(static_cast<int>(d) + 2), o.kernel_size[d], o.stride[d] == 0 ? o.kernel_size[d] : o.stride[d],
          o.padding[d], o.dilation[d]};
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& o) {
  const Windows down{x.size(2), weight.size(2), o.stride[0], o.padding[0], o.dilation[0]};
  const Windows across{x.size(3), weight.size(3), o.stride[1], o.padding[1], o.dilation[1]};
  const Image vx(x), vw(weight);
  const std::vector<double> shift = bias.defined() ? bias.to_vector<double>() : std::vector<double>();
  const std::int64_t channels = x.size(1) / o.groups, outputs = weight.size(0) / o.groups;
  return tabulate({x.size(0), weight.size(0), down.count(false), across.count(false)}, [&](const Index& i) {
    const std::int64_t k = i[1], first = k / outputs * channels;
    double total = bias.defined() ? shift[static_cast<std::size_t>(k)] : 0.0;
    for (std::int64_t r = 0; r < down.kernel; ++r) {
      for (std::int64_t s = 0; s < across.kernel; ++s) {
        const std::int64_t h = down.start(i[2]) + r * o.dilation[0], w = across.start(i[3]) + s * o.dilation[1];
        if (!vx.has(h, w)) continue;
        for (std::int64_t c = 0; c < channels; ++c) total += vx.at(i[0], first + c, h, w) * vw.at(k, c, r, s);
      }
    }
    return total;
  });
}

Tensor max_pool2d(const Tensor& x, const Pool2dOptions& o) {
  const Windows down = windows(x, o, 0), across = windows(x, o, 1);
  const Image v(x);
  return tabulate({x.size(0), x.size(1), down.count(o.ceil_mode), across.count(o.ceil_mode)}, [&](const Index& i) {
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t r = 0; r < down.kernel; ++r) {
      for (std::int64_t s = 0; s < across.kernel; ++s) {
        const std::int64_t h = down.start(i[2]) + r * o.dilation[0], w = across.start(i[3]) + s * o.dilation[1];
        if (v.has(h, w)) largest = std::max(largest, v.at(i[0], i[1], h, w));
      }
    }
    return largest;
  });
}

Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& o) {
  const Windows down = windows(x, o, 0), across = windows(x, o, 1);
  const Image v(x);
  return tabulate({x.size(0), x.size(1), down.count(o.ceil_mode), across.count(o.ceil_mode)}, [&](const Index& i) {
    double total = 0.0;
    int inside = 0, padded = 0;  // what hangs over even the far padding counts in neither
    for (std::int64_t h = down.start(i[2]); h < std::min(down.end(i[2]), down.size + down.padding); ++h) {
      for (std::int64_t w = across.start(i[3]); w < std::min(across.end(i[3]), across.size + across.padding); ++w) {
        ++padded;
        if (!v.has(h, w)) continue;
        ++inside;
        total += v.at(i[0], i[1], h, w);
      }
    }
    return total / (o.count_include_pad ? padded : inside);
  });
}

Tensor adaptive_avg_pool2d(const Tensor& x, Pair output) {
  const Image v(x);
  const auto begin = [](std::int64_t i, std::int64_t size, std::int64_t outputs) { return i * size / outputs; };
  const auto end = [](std::int64_t i, std::int64_t size, std::int64_t outputs) {
    return ((i + 1) * size + outputs - 1) / outputs;
  };
  return tabulate({x.size(0), x.size(1), output[0], output[1]}, [&](const Index& i) {
    double total = 0.0;
    int count = 0;
    for (std::int64_t h = begin(i[2], x.size(2), output[0]); h < end(i[2], x.size(2), output[0]); ++h) {
      for (std::int64_t w = begin(i[3], x.size(3), output[1]); w < end(i[3], x.size(3), output[1]); ++w) {
        total += v.at(i[0], i[1], h, w);
        ++count;
      }
    }
    return total / count;
  });
}

}  // namespace lockstep::test::reference
