#include <lockstep/kernels/cpu/conv2d_onednn.h>

#include <algorithm>
#include <string_view>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep::kernels::conv2d {
namespace {

using dnnl::memory;
using Part = OnednnPlan::Part;

constexpr const char* kOp = "conv2d";

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Padding at the far end that the output size implies; negative where the last pixels are not used.
std::int64_t far_padding(std::int64_t size, std::int64_t kernel, std::int64_t out, std::int64_t stride,
                         std::int64_t pad, std::int64_t dilation) {
  return (out - 1) * stride + dilation * (kernel - 1) + 1 - size - pad;
}

/// Taps [begin, end) of one dimension that meet the image for some output, as far as oneDNN can express the rest.
struct Window {
  std::int64_t begin, end;
};

Window live_taps(std::int64_t size, std::int64_t kernel, std::int64_t out, std::int64_t stride, std::int64_t pad,
                 std::int64_t dilation) {
  const auto live = [&](std::int64_t tap) {
    // The first output whose pixel under this tap is not before the image must not be behind it.
    const std::int64_t first = divide_up(std::max<std::int64_t>(0, pad - tap * dilation), stride);
    return first < out && first * stride - pad + tap * dilation < size;
  };
  Window window{0, kernel};
  while (window.begin + 1 < kernel && !live(window.begin) && pad >= (window.begin + 1) * dilation) ++window.begin;
  while (window.end - 1 > window.begin && !live(window.end - 1) &&
         far_padding(size, window.end - 1 - window.begin, out, stride, pad - window.begin * dilation, dilation) >
             -stride) {
    --window.end;
  }
  return window;
}

/// Rows [begin, end) of one image: of the output, or for the gradient of the data, of the input. Nothing where oneDNN
/// could not express them.
std::optional<Part> row_part(const Conv2dShape& whole, Pass pass, std::int64_t n, std::int64_t begin,
                             std::int64_t end) {
  const std::int64_t extent = whole.dilation_h * (whole.r - 1);
  std::int64_t h_begin, h_end, p_begin, p_end;
  if (pass == Pass::kBackwardData) {
    h_begin = begin, h_end = end;
    p_begin = divide_up(std::max<std::int64_t>(0, begin + whole.pad_h - extent), whole.stride_h);
    p_end = std::min(whole.p, (end - 1 + whole.pad_h) / whole.stride_h + 1);
  } else {
    p_begin = begin, p_end = end;
    h_begin = std::max<std::int64_t>(0, begin * whole.stride_h - whole.pad_h);
    h_end = std::min(whole.h, (end - 1) * whole.stride_h - whole.pad_h + extent + 1);
  }
  Part part{whole, (n * whole.h + h_begin) * whole.w * whole.c, (n * whole.p + p_begin) * whole.q * whole.k, 0};
  part.shape.n = 1;
  part.shape.h = h_end - h_begin;
  part.shape.p = p_end - p_begin;
  part.shape.pad_h = whole.pad_h + h_begin - p_begin * whole.stride_h;
  const bool valid = part.shape.h > 0 && part.shape.p > 0 && part.shape.pad_h >= 0 &&
                     far_padding(part.shape.h, whole.r, part.shape.p, whole.stride_h, part.shape.pad_h,
                                 whole.dilation_h) > -whole.stride_h;
  if (!valid) return std::nullopt;
  return part;
}

std::vector<Part> cut(const Conv2dShape& whole, Pass pass, std::int64_t threads) {
  std::vector<Part> parts;
  const std::int64_t rows = pass == Pass::kBackwardData ? whole.h : whole.p;
  const std::int64_t runs = std::min(threads / whole.n, rows / 4);  // of rows of each image
  if (runs > 1) {
    for (std::int64_t i = 0; i < whole.n * runs; ++i) {
      const std::int64_t run = i % runs;
      const auto part = row_part(whole, pass, i / runs, run * rows / runs, (run + 1) * rows / runs);
      if (!part) break;
      parts.push_back(*part);
    }
    if (static_cast<std::int64_t>(parts.size()) == whole.n * runs) return parts;
    parts.clear();
  }
  const std::int64_t count = std::min(threads, whole.n);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = i * whole.n / count, end = (i + 1) * whole.n / count;
    Part part{whole, begin * whole.h * whole.w * whole.c, begin * whole.p * whole.q * whole.k, 0};
    part.shape.n = end - begin;
    parts.push_back(part);
  }
  return parts;
}

/// The weights [K, R, S, C / groups] as oneDNN numbers their dimensions, with the strides of `whole` around a window of
/// it.
memory::desc plain_weights(const Conv2dShape& window, const Conv2dShape& whole) {
  const std::int64_t channels = whole.c / whole.groups, outputs = whole.k / whole.groups;
  const std::int64_t row = whole.s * channels, filter = whole.r * row;
  if (whole.groups == 1) {
    return {{outputs, channels, window.r, window.s}, memory::data_type::f32, memory::dims{filter, 1, row, channels}};
  }
  return {{whole.groups, outputs, channels, window.r, window.s},
          memory::data_type::f32,
          memory::dims{outputs * filter, filter, 1, row, channels}};
}

LOCKSTEP_MULTIVERSION
void add(float* sum, const float* term, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += term[i];
}

/// Calls body(index, item) for each item, in parallel.
/// With fewer channels than a vector register (of AVX-512, to be safe), oneDNN 2.6 gathers the pixels under a strided
/// 1×1 kernel into a scratchpad that is too small for them when it sums the gradient of the weights.
bool writes_beyond_scratchpad(const Conv2dShape& d) {
  return d.r == 1 && d.s == 1 && (d.stride_h > 1 || d.stride_w > 1) && d.c / d.groups < 16;
}

template <class T, class Body>
void parallel_over(const std::vector<T>& items, Body&& body) {
  parallel_for(static_cast<std::int64_t>(items.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const onednn::SingleThread scope;
    for (std::int64_t i = begin; i < end; ++i) body(static_cast<std::size_t>(i), items[static_cast<std::size_t>(i)]);
  });
}

}  // namespace

std::unique_ptr<const OnednnPlan> OnednnPlan::make(const Conv2dShape& shape, Pass pass, std::int64_t threads) {
  auto plan = std::make_unique<OnednnPlan>();
  plan->pass_ = pass;
  try {
    if (plan->fill(shape, threads)) return plan;
  } catch (const dnnl::error& error) {
    LOCKSTEP_CHECK(error.status != dnnl_out_of_memory, OutOfMemoryError, kOp, "oneDNN ran out of memory");
  }
  return nullptr;
}

bool OnednnPlan::fill(const Conv2dShape& whole, std::int64_t threads) {
  const onednn::SingleThread scope;
  const Window rows = live_taps(whole.h, whole.r, whole.p, whole.stride_h, whole.pad_h, whole.dilation_h);
  const Window columns = live_taps(whole.w, whole.s, whole.q, whole.stride_w, whole.pad_w, whole.dilation_w);
  Conv2dShape window = whole;
  window.r = rows.end - rows.begin;
  window.s = columns.end - columns.begin;
  window.pad_h -= rows.begin * whole.dilation_h;
  window.pad_w -= columns.begin * whole.dilation_w;
  const std::int64_t window_offset = (rows.begin * whole.s + columns.begin) * (whole.c / whole.groups);

  std::int64_t part_limit = threads;
  if (pass_ == Pass::kBackwardWeight) {
    if (window.r < whole.r || window.s < whole.s) clear_first_ = whole.k * whole.r * whole.s * (whole.c / whole.groups);
    // Every part has a gradient of its own: with many threads, not more than 256 MB of them.
    const std::int64_t elements = whole.k * window.r * window.s * (whole.c / whole.groups);
    part_limit = std::min(threads, std::max<std::int64_t>(2, (std::int64_t{1} << 26) / elements));
  }
  parts_ = cut(window, pass_, part_limit);
  for (Part& part : parts_) {
    while (part.primitive < primitives_.size() && primitives_[part.primitive].shape != part.shape) ++part.primitive;
    if (part.primitive < primitives_.size()) continue;
    auto primitive = make_primitive(part.shape);
    if (!primitive) return false;
    scratchpad_bytes_ = std::max(scratchpad_bytes_, aligned(primitive->scratchpad.get_size()));
    primitives_.push_back(std::move(*primitive));
  }
  packed_bytes_ = aligned(packed_.get_size());
  plan_reorder(plain_weights(window, whole), window_offset, threads);
  const std::size_t gradients = pass_ == Pass::kBackwardWeight ? parts_.size() : 1;
  zeros_offset_ = gradients * packed_bytes_ + parts_.size() * scratchpad_bytes_;
  workspace_ = zeros_offset_;
  if (pass_ == Pass::kForward) workspace_ += aligned(static_cast<std::size_t>(whole.k) * sizeof(float));
  return true;
}

/// Lets oneDNN choose the format of the packed weights for the first part; the others follow.
std::optional<OnednnPlan::Primitive> OnednnPlan::make_primitive(const Conv2dShape& d) {
  using memory_tag = memory::format_tag;
  constexpr auto f32 = memory::data_type::f32;
  const memory::desc x({d.n, d.c, d.h, d.w}, f32, memory_tag::nhwc), y({d.n, d.k, d.p, d.q}, f32, memory_tag::nhwc);
  const memory::dims weight_sizes = d.groups == 1 ? memory::dims{d.k, d.c, d.r, d.s}
                                                  : memory::dims{d.groups, d.k / d.groups, d.c / d.groups, d.r, d.s};
  const memory::desc w = packed_.is_zero() ? memory::desc(weight_sizes, f32, memory_tag::any) : packed_;
  const memory::desc bias({d.k}, f32, memory_tag::x);
  const memory::dims strides{d.stride_h, d.stride_w}, dilations{d.dilation_h - 1, d.dilation_w - 1};
  const memory::dims pad{d.pad_h, d.pad_w}, far_pad{far_padding(d.h, d.r, d.p, d.stride_h, d.pad_h, d.dilation_h),
                                                    far_padding(d.w, d.s, d.q, d.stride_w, d.pad_w, d.dilation_w)};
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);

  const auto finish = [&]<class Convolution>(const typename Convolution::primitive_desc& description,
                                             const memory::desc& chosen) -> std::optional<Primitive> {
    if (std::string_view(description.impl_info_str()).starts_with("ref")) return std::nullopt;
    packed_ = chosen;
    return Primitive{d, Convolution(description), x, y, bias, description.scratchpad_desc()};
  };
  const dnnl::engine& engine = onednn::engine();
  using Forward = dnnl::convolution_forward;
  const Forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, direct, x, w, bias, y, strides, dilations, pad, far_pad}, attributes, engine);
  switch (pass_) {
    case Pass::kForward: return finish.operator()<Forward>(forward, forward.weights_desc());
    case Pass::kBackwardData: {
      using Backward = dnnl::convolution_backward_data;
      const Backward::primitive_desc backward({direct, x, w, y, strides, dilations, pad, far_pad}, attributes, engine,
                                              forward);
      return finish.operator()<Backward>(backward, backward.weights_desc());
    }
    case Pass::kBackwardWeight: {
      if (writes_beyond_scratchpad(d)) return std::nullopt;
      using Backward = dnnl::convolution_backward_weights;
      const Backward::primitive_desc backward({direct, x, w, y, strides, dilations, pad, far_pad}, attributes, engine,
                                              forward);
      return finish.operator()<Backward>(backward, backward.diff_weights_desc());
    }
  }
  return std::nullopt;
}

/// Cuts the reordering between the caller's weights and the packed ones for at most `threads` threads, along the
/// outermost dimension of both: output channels, or groups.
void OnednnPlan::plan_reorder(const memory::desc& plain, std::int64_t window_offset, std::int64_t threads) {
  const dnnl_memory_desc_t& packed = packed_.data;
  const auto& blocking = packed.format_desc.blocking;
  const std::int64_t size = packed.dims[0], elements = static_cast<std::int64_t>(packed_.get_size() / sizeof(float));
  std::int64_t block = 1;
  for (int i = 0; i < blocking.inner_nblks; ++i) {
    if (blocking.inner_idxs[i] == 0) block *= blocking.inner_blks[i];
  }
  const std::int64_t units = divide_up(size, block);
  const bool outermost = blocking.strides[0] * units == elements;
  const std::int64_t count = outermost ? std::min({threads, units, std::max<std::int64_t>(1, elements / 16384)}) : 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = i * units / count, end = (i + 1) * units / count;
    memory::dims sizes = plain.dims(), offsets(sizes.size(), 0);
    offsets[0] = begin * block;
    sizes[0] = std::min(end * block, size) - offsets[0];
    memory::desc plain_part = plain.submemory_desc(sizes, offsets),
                 packed_part = packed_.submemory_desc(sizes, offsets);
    Split split{window_offset + plain_part.data.offset0, begin * blocking.strides[0],
                i + 1 == count ? elements : end * blocking.strides[0], 0};
    plain_part.data.offset0 = 0;
    packed_part.data.offset0 = 0;
    while (split.reorder < reorders_.size() &&
           (reorders_[split.reorder].plain != plain_part || reorders_[split.reorder].packed != packed_part)) {
      ++split.reorder;
    }
    if (split.reorder == reorders_.size()) {
      const bool back = pass_ == Pass::kBackwardWeight;
      const dnnl::reorder::primitive_desc description(onednn::engine(), back ? packed_part : plain_part,
                                                      onednn::engine(), back ? plain_part : packed_part);
      reorders_.push_back({plain_part, packed_part, dnnl::reorder(description)});
    }
    splits_.push_back(split);
  }
}

float* OnednnPlan::packed_at(void* workspace, std::size_t part) const {
  return reinterpret_cast<float*>(static_cast<std::byte*>(workspace) + part * packed_bytes_);
}

void* OnednnPlan::scratchpad_at(void* workspace, std::size_t part) const {
  const std::size_t gradients = pass_ == Pass::kBackwardWeight ? parts_.size() : 1;
  return static_cast<std::byte*>(workspace) + gradients * packed_bytes_ + part * scratchpad_bytes_;
}

void OnednnPlan::pack_weights(const float* w, float* packed) const {
  parallel_over(splits_, [&](std::size_t, const Split& split) {
    const Reorder& reorder = reorders_[split.reorder];
    onednn::execute(kOp, reorder.primitive,
                    {{DNNL_ARG_FROM, reorder.plain, w + split.plain_offset},
                     {DNNL_ARG_TO, reorder.packed, packed + split.packed_begin}});
  });
}

void OnednnPlan::forward(const float* x, const float* w, const float* bias, float* y, void* workspace) const {
  float* packed = packed_at(workspace, 0);
  pack_weights(w, packed);
  if (bias == nullptr) {
    float* zeros = reinterpret_cast<float*>(static_cast<std::byte*>(workspace) + zeros_offset_);
    std::fill_n(zeros, primitives_[0].shape.k, 0.0f);
    bias = zeros;
  }
  parallel_over(parts_, [&](std::size_t i, const Part& part) {
    const Primitive& p = primitives_[part.primitive];
    onednn::execute(kOp, p.primitive,
                    {{DNNL_ARG_SRC, p.x, x + part.x_offset},
                     {DNNL_ARG_WEIGHTS, packed_, packed},
                     {DNNL_ARG_BIAS, p.bias, bias},
                     {DNNL_ARG_DST, p.y, y + part.y_offset},
                     {DNNL_ARG_SCRATCHPAD, p.scratchpad, scratchpad_at(workspace, i)}});
  });
}

void OnednnPlan::backward_data(const float* grad_y, const float* w, float* grad_x, void* workspace) const {
  float* packed = packed_at(workspace, 0);
  pack_weights(w, packed);
  parallel_over(parts_, [&](std::size_t i, const Part& part) {
    const Primitive& p = primitives_[part.primitive];
    onednn::execute(kOp, p.primitive,
                    {{DNNL_ARG_DIFF_SRC, p.x, grad_x + part.x_offset},
                     {DNNL_ARG_WEIGHTS, packed_, packed},
                     {DNNL_ARG_DIFF_DST, p.y, grad_y + part.y_offset},
                     {DNNL_ARG_SCRATCHPAD, p.scratchpad, scratchpad_at(workspace, i)}});
  });
}

void OnednnPlan::backward_weight(const float* x, const float* grad_y, float* grad_w, void* workspace) const {
  std::fill_n(grad_w, clear_first_, 0.0f);
  parallel_over(parts_, [&](std::size_t i, const Part& part) {
    const Primitive& p = primitives_[part.primitive];
    onednn::execute(kOp, p.primitive,
                    {{DNNL_ARG_SRC, p.x, x + part.x_offset},
                     {DNNL_ARG_DIFF_WEIGHTS, packed_, packed_at(workspace, i)},
                     {DNNL_ARG_DIFF_DST, p.y, grad_y + part.y_offset},
                     {DNNL_ARG_SCRATCHPAD, p.scratchpad, scratchpad_at(workspace, i)}});
  });
  parallel_over(splits_, [&](std::size_t, const Split& split) {
    float* sum = packed_at(workspace, 0) + split.packed_begin;
    for (std::size_t i = 1; i < parts_.size(); ++i) {
      add(sum, packed_at(workspace, i) + split.packed_begin, split.packed_end - split.packed_begin);
    }
    const Reorder& reorder = reorders_[split.reorder];
    onednn::execute(kOp, reorder.primitive,
                    {{DNNL_ARG_FROM, reorder.packed, sum}, {DNNL_ARG_TO, reorder.plain, grad_w + split.plain_offset}});
  });
}

}  // namespace lockstep::kernels::conv2d
