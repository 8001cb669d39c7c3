// What the files of the op registry share: op_registry_<family>.cpp each register their ops.
#pragma once

#include <concepts>
#include <cstdint>
#include <vector>

#include <lockstep/tests/support/check_op.h>

namespace lockstep::test {

using Scale = Tolerance::Scale;
using Inputs = std::vector<Tensor>;

inline constexpr Layout kRows = Layout::row_major;
inline constexpr Layout kLast = Layout::channels_last;
inline constexpr Tolerance kExact{Scale::element, 0, 0, "values are only moved"};

struct Form {
  Shape shape;
  Layout layout = kRows;
};

/// Scalar, odd, size 1, empty, several dimensions, images in both layouts, more than one vector register.
std::vector<Form> forms();
/// Random: one to five dimensions of at most 5, at most 60 elements, images in either layout.
Form small_form(Draws& draws);
/// Random: one to four dimensions, as often a few elements as tens of thousands, images in either layout.
Form large_form(Draws& draws);
/// Around the widths of vector registers, or any number from 1 to 70.
std::int64_t any_channels(Draws& draws);
/// `form` as a second operand of broadcasting: some sizes 1, perhaps without the first dimensions.
Form broadcast_operand(Draws& draws, const Form& form);
/// Magnitudes from 0.25 to 4, all positive or all negative: sums of them lose no digits.
Tensor one_sign(Draws& draws, const Form& form);
/// A bias for each channel of `y` [N, C] or [N, C, H, W], the ReLU's input without one, that keeps all values at least
/// `distance` away from the ReLU's kink: a step of central differences or a rounding error must not carry one to the
/// other side.
Tensor bias_away_from_kink(Draws& draws, const Tensor& y, double distance);
/// The same for sums of products `y`, whose rounding errors grow with them: none where `bias`
/// is undefined and none is needed.
Tensor bias_for_relu(Draws& draws, const Tensor& y, const Tensor& bias, double distance);

// ---- Tensors that wrong calls are made of: f32(2, 3) for shape [2, 3].

inline Tensor f32(const Shape& shape, Layout layout = kRows) { return Tensor::ones(shape, {.layout = layout}); }
inline Tensor f64(const Shape& shape) { return Tensor::ones(shape, {.dtype = DType::float64}); }
inline Tensor i64(const Shape& shape) { return Tensor::zeros(shape, {.dtype = DType::int64}); }
inline Tensor u8(const Shape& shape) { return Tensor::zeros(shape, {.dtype = DType::uint8}); }
Tensor f32(std::integral auto... sizes) { return f32(Shape{sizes...}); }
Tensor f64(std::integral auto... sizes) { return f64(Shape{sizes...}); }
Tensor i64(std::integral auto... sizes) { return i64(Shape{sizes...}); }
Tensor u8(std::integral auto... sizes) { return u8(Shape{sizes...}); }
/// A size of which two do not fit into an int64.
inline constexpr std::int64_t kHuge = std::int64_t{1} << 62;

void register_elementwise_ops(std::vector<OpEntry>& registry);
void register_shape_ops(std::vector<OpEntry>& registry);
void register_copy_ops(std::vector<OpEntry>& registry);
void register_reduction_ops(std::vector<OpEntry>& registry);
void register_convolution_ops(std::vector<OpEntry>& registry);
void register_pool_ops(std::vector<OpEntry>& registry);
void register_norm_ops(std::vector<OpEntry>& registry);
void register_loss_ops(std::vector<OpEntry>& registry);

}  // namespace lockstep::test
