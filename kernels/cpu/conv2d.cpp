// Float convolutions run on oneDNN. The batch (where it is shorter than the number of threads, also the rows of its
// images) is cut into parts, one for each thread of our pool, and each part is a single-threaded primitive. Weights are
// reordered to oneDNN's blocked format for every call, since they change in every training step.
#include <lockstep/kernels/conv2d.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/conv2d_internal.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/onednn_utils.h>

namespace lockstep::cpu {
namespace {

using dnnl::memory;

enum class Pass : std::int64_t { kForward, kBackwardData, kBackwardWeight };
enum class Method { kReference, kPositions, kOnednn };

constexpr const char* kOp = "conv2d";

/// Up to this many output positions, products over the batch win (measured): the padding then holds half of the taps.
constexpr std::int64_t kMaxPositions = 4;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

bool is_empty(const Conv2dShape& d) {
  return d.n <= 0 || d.c <= 0 || d.h <= 0 || d.w <= 0 || d.k <= 0 || d.r <= 0 || d.s <= 0 || d.p <= 0 || d.q <= 0;
}

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

/// A part of the work: some images, or a run of rows of one image. Offsets are in elements.
struct Part {
  Conv2dShape shape;
  std::int64_t x_offset, y_offset;
  std::size_t primitive;
};

/// A run of the outermost blocks of the packed weights, reordered by one thread.
struct Split {
  std::int64_t plain_offset, packed_begin, packed_end;
  std::size_t reorder;
};

struct Reorder {
  memory::desc plain, packed;
  dnnl::primitive primitive;
};

/// All that a pass of one shape needs and that does not depend on the data; never changes once made.
struct Plan {
  Method method = Method::kReference;
  std::size_t workspace = 0;

  // For Method::kOnednn. The workspace holds the packed weights (or one packed gradient for each part), then the
  // scratchpads of the parts, then for the forward pass a bias of zeros: one primitive serves with and without.
  Pass pass{};
  std::vector<Part> parts;
  struct Primitive {
    Conv2dShape shape;
    dnnl::primitive primitive;
    memory::desc x, y, bias, scratchpad;
  };
  std::vector<Primitive> primitives;
  memory::desc packed;
  std::size_t packed_bytes = 0, scratchpad_bytes = 0, bias_offset = 0;
  std::vector<Split> splits;
  std::vector<Reorder> reorders;
  bool whole_window = true;

  float* packed_at(void* workspace_at, std::size_t part) const {
    return reinterpret_cast<float*>(static_cast<std::byte*>(workspace_at) + part * packed_bytes);
  }
  void* scratchpad_at(void* workspace_at, std::size_t part) const {
    const std::size_t gradients = pass == Pass::kBackwardWeight ? parts.size() : 1;
    return static_cast<std::byte*>(workspace_at) + gradients * packed_bytes + part * scratchpad_bytes;
  }
};

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

/// The primitive of one part. `packed` is the weights' format: chosen by oneDNN when it is still empty. Returns nothing
/// where oneDNN has only its slow reference code.
std::optional<Plan::Primitive> make_primitive(const Conv2dShape& d, Pass pass, memory::desc& packed) {
  using memory_tag = memory::format_tag;
  constexpr auto f32 = memory::data_type::f32;
  const memory::desc x({d.n, d.c, d.h, d.w}, f32, memory_tag::nhwc), y({d.n, d.k, d.p, d.q}, f32, memory_tag::nhwc);
  const memory::dims weight_sizes = d.groups == 1 ? memory::dims{d.k, d.c, d.r, d.s}
                                                  : memory::dims{d.groups, d.k / d.groups, d.c / d.groups, d.r, d.s};
  const memory::desc w = packed.is_zero() ? memory::desc(weight_sizes, f32, memory_tag::any) : packed;
  const memory::desc bias({d.k}, f32, memory_tag::x);
  const memory::dims strides{d.stride_h, d.stride_w}, dilations{d.dilation_h - 1, d.dilation_w - 1};
  const memory::dims pad{d.pad_h, d.pad_w}, far_pad{far_padding(d.h, d.r, d.p, d.stride_h, d.pad_h, d.dilation_h),
                                                    far_padding(d.w, d.s, d.q, d.stride_w, d.pad_w, d.dilation_w)};
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);

  const auto finish = [&]<class Primitive>(const typename Primitive::primitive_desc& description,
                                           const memory::desc& chosen) -> std::optional<Plan::Primitive> {
    if (std::string_view(description.impl_info_str()).starts_with("ref")) return std::nullopt;
    packed = chosen;
    return Plan::Primitive{d, Primitive(description), x, y, bias, description.scratchpad_desc()};
  };
  const dnnl::engine& engine = onednn::engine();
  try {
    using Forward = dnnl::convolution_forward;
    const Forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, direct, x, w, bias, y, strides, dilations, pad, far_pad}, attributes,
        engine);
    switch (pass) {
      case Pass::kForward: return finish.operator()<Forward>(forward, forward.weights_desc());
      case Pass::kBackwardData: {
        using Backward = dnnl::convolution_backward_data;
        const Backward::primitive_desc backward({direct, x, w, y, strides, dilations, pad, far_pad}, attributes, engine,
                                                forward);
        return finish.operator()<Backward>(backward, backward.weights_desc());
      }
      case Pass::kBackwardWeight: {
        using Backward = dnnl::convolution_backward_weights;
        const Backward::primitive_desc backward({direct, x, w, y, strides, dilations, pad, far_pad}, attributes, engine,
                                                forward);
        return finish.operator()<Backward>(backward, backward.diff_weights_desc());
      }
    }
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw;
  }
  return std::nullopt;
}

/// Cuts the reordering between the caller's weights and the packed ones for at most `threads` threads, along the
/// outermost dimension of both: output channels, or groups.
void plan_reorder(Plan& plan, const memory::desc& plain, std::int64_t threads) {
  const dnnl_memory_desc_t& packed = plan.packed.data;
  const auto& blocking = packed.format_desc.blocking;
  const std::int64_t size = packed.dims[0],
                     elements = static_cast<std::int64_t>(plan.packed.get_size() / sizeof(float));
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
                 packed_part = plan.packed.submemory_desc(sizes, offsets);
    Split split{plain_part.data.offset0, begin * blocking.strides[0],
                i + 1 == count ? elements : end * blocking.strides[0], 0};
    plain_part.data.offset0 = 0;
    packed_part.data.offset0 = 0;
    while (split.reorder < plan.reorders.size() &&
           (plan.reorders[split.reorder].plain != plain_part || plan.reorders[split.reorder].packed != packed_part)) {
      ++split.reorder;
    }
    if (split.reorder == plan.reorders.size()) {
      const bool back = plan.pass == Pass::kBackwardWeight;
      const dnnl::reorder::primitive_desc description(onednn::engine(), back ? packed_part : plain_part,
                                                      onednn::engine(), back ? plain_part : packed_part);
      plan.reorders.push_back({plain_part, packed_part, dnnl::reorder(description)});
    }
    plan.splits.push_back(split);
  }
}

struct Key {
  Conv2dShape shape;
  Pass pass;
  std::int64_t threads;

  bool operator==(const Key&) const = default;
};

/// Fills in what oneDNN needs; false where it has nothing better than the reference.
bool plan_onednn(Plan& plan, const Key& key) {
  const onednn::SingleThread scope;
  const Conv2dShape& whole = key.shape;
  const Window rows = live_taps(whole.h, whole.r, whole.p, whole.stride_h, whole.pad_h, whole.dilation_h);
  const Window columns = live_taps(whole.w, whole.s, whole.q, whole.stride_w, whole.pad_w, whole.dilation_w);
  Conv2dShape window = whole;
  window.r = rows.end - rows.begin;
  window.s = columns.end - columns.begin;
  window.pad_h -= rows.begin * whole.dilation_h;
  window.pad_w -= columns.begin * whole.dilation_w;
  const std::int64_t window_offset = (rows.begin * whole.s + columns.begin) * (whole.c / whole.groups);

  plan.pass = key.pass;
  plan.whole_window = window.r == whole.r && window.s == whole.s;
  std::int64_t threads = key.threads;
  if (key.pass == Pass::kBackwardWeight) {
    // Every part has a gradient of its own: with many threads, not more than 256 MB of them.
    const std::int64_t elements = whole.k * window.r * window.s * (whole.c / whole.groups);
    threads = std::min(threads, std::max<std::int64_t>(2, (std::int64_t{1} << 26) / elements));
  }
  plan.parts = cut(window, key.pass, threads);
  for (Part& part : plan.parts) {
    while (part.primitive < plan.primitives.size() && plan.primitives[part.primitive].shape != part.shape)
      ++part.primitive;
    if (part.primitive < plan.primitives.size()) continue;
    auto primitive = make_primitive(part.shape, key.pass, plan.packed);
    if (!primitive) return false;
    plan.scratchpad_bytes = std::max(plan.scratchpad_bytes, aligned(primitive->scratchpad.get_size()));
    plan.primitives.push_back(std::move(*primitive));
  }
  plan.packed_bytes = aligned(plan.packed.get_size());
  plan_reorder(plan, plain_weights(window, whole), key.threads);
  for (Split& split : plan.splits) split.plain_offset += window_offset;
  const std::size_t gradients = key.pass == Pass::kBackwardWeight ? plan.parts.size() : 1;
  plan.bias_offset = gradients * plan.packed_bytes + plan.parts.size() * plan.scratchpad_bytes;
  plan.workspace = plan.bias_offset;
  if (key.pass == Pass::kForward) plan.workspace += aligned(static_cast<std::size_t>(whole.k) * sizeof(float));
  return true;
}

std::shared_ptr<const Plan> make_plan(const Key& key) {
  auto plan = std::make_shared<Plan>();
  if (is_empty(key.shape)) return plan;
  if (key.shape.groups == 1 && key.shape.p * key.shape.q <= kMaxPositions) {
    plan->method = Method::kPositions;
    return plan;
  }
  if (!plan_onednn(*plan, key)) return std::make_shared<Plan>();
  plan->method = Method::kOnednn;
  return plan;
}

std::shared_ptr<const Plan> find_plan(const Conv2dShape& shape, Pass pass) {
  struct Hash {
    std::size_t operator()(const Key& key) const {
      static_assert(std::has_unique_object_representations_v<Key> && sizeof(Key) % sizeof(std::uint64_t) == 0);
      std::uint64_t words[sizeof(Key) / sizeof(std::uint64_t)], hash = 0;
      std::memcpy(words, &key, sizeof(Key));
      for (const std::uint64_t word : words) hash = (hash ^ word) * 0x9E3779B97F4A7C15u ^ hash >> 29;
      return hash ^ hash >> 32;
    }
  };
  constexpr std::size_t kMaxPlans = 4096;  // so that ever-changing sizes do not fill the memory
  static std::mutex mutex;
  static std::unordered_map<Key, std::shared_ptr<const Plan>, Hash> plans;

  const Key key{shape, pass, num_threads()};
  const std::lock_guard lock(mutex);
  if (const auto found = plans.find(key); found != plans.end()) return found->second;
  if (plans.size() >= kMaxPlans) plans.clear();
  return plans.emplace(key, make_plan(key)).first->second;
}

LOCKSTEP_MULTIVERSION
void add(float* sum, const float* term, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += term[i];
}

/// Calls body(index) for [0, count), one thread each.
template <class T, class Body>
void parallel_over(const std::vector<T>& items, Body&& body) {
  parallel_for(static_cast<std::int64_t>(items.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const onednn::SingleThread scope;
    for (std::int64_t i = begin; i < end; ++i) body(static_cast<std::size_t>(i), items[static_cast<std::size_t>(i)]);
  });
}

void pack_weights(const Plan& plan, const float* w, float* packed) {
  parallel_over(plan.splits, [&](std::size_t, const Split& split) {
    const Reorder& reorder = plan.reorders[split.reorder];
    onednn::execute(kOp, reorder.primitive,
                    {{DNNL_ARG_FROM, reorder.plain, w + split.plain_offset},
                     {DNNL_ARG_TO, reorder.packed, packed + split.packed_begin}});
  });
}

void onednn_forward(const Plan& plan, const float* x, const float* w, const float* bias, float* y, void* workspace) {
  float* packed = plan.packed_at(workspace, 0);
  pack_weights(plan, w, packed);
  if (bias == nullptr) {
    float* zeros = reinterpret_cast<float*>(static_cast<std::byte*>(workspace) + plan.bias_offset);
    std::fill_n(zeros, plan.primitives[0].shape.k, 0.0f);
    bias = zeros;
  }
  parallel_over(plan.parts, [&](std::size_t i, const Part& part) {
    const Plan::Primitive& p = plan.primitives[part.primitive];
    onednn::execute(kOp, p.primitive,
                    {{DNNL_ARG_SRC, p.x, x + part.x_offset},
                     {DNNL_ARG_WEIGHTS, plan.packed, packed},
                     {DNNL_ARG_BIAS, p.bias, bias},
                     {DNNL_ARG_DST, p.y, y + part.y_offset},
                     {DNNL_ARG_SCRATCHPAD, p.scratchpad, plan.scratchpad_at(workspace, i)}});
  });
}

void onednn_backward_data(const Plan& plan, const float* grad_y, const float* w, float* grad_x, void* workspace) {
  float* packed = plan.packed_at(workspace, 0);
  pack_weights(plan, w, packed);
  parallel_over(plan.parts, [&](std::size_t i, const Part& part) {
    const Plan::Primitive& p = plan.primitives[part.primitive];
    onednn::execute(kOp, p.primitive,
                    {{DNNL_ARG_DIFF_SRC, p.x, grad_x + part.x_offset},
                     {DNNL_ARG_WEIGHTS, plan.packed, packed},
                     {DNNL_ARG_DIFF_DST, p.y, grad_y + part.y_offset},
                     {DNNL_ARG_SCRATCHPAD, p.scratchpad, plan.scratchpad_at(workspace, i)}});
  });
}

void onednn_backward_weight(const Plan& plan, const float* x, const float* grad_y, float* grad_w,
                            std::int64_t weight_count, void* workspace) {
  if (!plan.whole_window) std::fill_n(grad_w, weight_count, 0.0f);
  parallel_over(plan.parts, [&](std::size_t i, const Part& part) {
    const Plan::Primitive& p = plan.primitives[part.primitive];
    onednn::execute(kOp, p.primitive,
                    {{DNNL_ARG_SRC, p.x, x + part.x_offset},
                     {DNNL_ARG_DIFF_WEIGHTS, plan.packed, plan.packed_at(workspace, i)},
                     {DNNL_ARG_DIFF_DST, p.y, grad_y + part.y_offset},
                     {DNNL_ARG_SCRATCHPAD, p.scratchpad, plan.scratchpad_at(workspace, i)}});
  });
  parallel_over(plan.splits, [&](std::size_t, const Split& split) {
    float* sum = plan.packed_at(workspace, 0) + split.packed_begin;
    for (std::size_t i = 1; i < plan.parts.size(); ++i) {
      add(sum, plan.packed_at(workspace, i) + split.packed_begin, split.packed_end - split.packed_begin);
    }
    const Reorder& reorder = plan.reorders[split.reorder];
    onednn::execute(kOp, reorder.primitive,
                    {{DNNL_ARG_FROM, reorder.packed, sum}, {DNNL_ARG_TO, reorder.plain, grad_w + split.plain_offset}});
  });
}

}  // namespace

template <>
std::size_t conv2d_forward_workspace<float>(const Conv2dShape& shape) {
  return find_plan(shape, Pass::kForward)->workspace;
}

template <>
std::size_t conv2d_backward_data_workspace<float>(const Conv2dShape& shape) {
  return find_plan(shape, Pass::kBackwardData)->workspace;
}

template <>
std::size_t conv2d_backward_weight_workspace<float>(const Conv2dShape& shape) {
  return find_plan(shape, Pass::kBackwardWeight)->workspace;
}

template <>
void conv2d_forward<float>(const Conv2dShape& shape, const float* x, const float* w, const float* bias, float* y,
                           void* workspace) {
  const auto plan = find_plan(shape, Pass::kForward);
  switch (plan->method) {
    case Method::kReference: return conv2d::reference_forward(shape, x, w, bias, y);
    case Method::kPositions: return conv2d::positions_forward(shape, x, w, bias, y);
    case Method::kOnednn: return onednn_forward(*plan, x, w, bias, y, workspace);
  }
}

template <>
void conv2d_backward_data<float>(const Conv2dShape& shape, const float* grad_y, const float* w, float* grad_x,
                                 void* workspace) {
  const auto plan = find_plan(shape, Pass::kBackwardData);
  switch (plan->method) {
    case Method::kReference: return conv2d::reference_backward_data(shape, grad_y, w, grad_x);
    case Method::kPositions: return conv2d::positions_backward_data(shape, grad_y, w, grad_x);
    case Method::kOnednn: return onednn_backward_data(*plan, grad_y, w, grad_x, workspace);
  }
}

template <>
void conv2d_backward_weight<float>(const Conv2dShape& shape, const float* x, const float* grad_y, float* grad_w,
                                   float* grad_bias, void* workspace) {
  if (grad_bias != nullptr) conv2d::bias_gradient(shape.n * shape.p * shape.q, shape.k, grad_y, grad_bias);
  const auto plan = find_plan(shape, Pass::kBackwardWeight);
  switch (plan->method) {
    case Method::kReference: return conv2d::reference_backward_weight(shape, x, grad_y, grad_w);
    case Method::kPositions: return conv2d::positions_backward_weight(shape, x, grad_y, grad_w);
    case Method::kOnednn:
      return onednn_backward_weight(*plan, x, grad_y, grad_w, shape.k * shape.r * shape.s * (shape.c / shape.groups),
                                    workspace);
  }
}

template <>
std::size_t conv2d_forward_workspace<double>(const Conv2dShape&) {
  return 0;
}

template <>
std::size_t conv2d_backward_data_workspace<double>(const Conv2dShape&) {
  return 0;
}

template <>
std::size_t conv2d_backward_weight_workspace<double>(const Conv2dShape&) {
  return 0;
}

template <>
void conv2d_forward<double>(const Conv2dShape& shape, const double* x, const double* w, const double* bias, double* y,
                            void*) {
  conv2d::reference_forward(shape, x, w, bias, y);
}

template <>
void conv2d_backward_data<double>(const Conv2dShape& shape, const double* grad_y, const double* w, double* grad_x,
                                  void*) {
  conv2d::reference_backward_data(shape, grad_y, w, grad_x);
}

template <>
void conv2d_backward_weight<double>(const Conv2dShape& shape, const double* x, const double* grad_y, double* grad_w,
                                    double* grad_bias, void*) {
  if (grad_bias != nullptr) conv2d::bias_gradient(shape.n * shape.p * shape.q, shape.k, grad_y, grad_bias);
  conv2d::reference_backward_weight(shape, x, grad_y, grad_w);
}

}  // namespace lockstep::cpu
