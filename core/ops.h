// Every operation on tensors. All are differentiable in their floating-point inputs unless they say otherwise;
// gradients are first-order. They take float32 and float64 (the float64 versions are plain loops: the oracle the tests
// compare with) and throw DTypeError for other dtypes, DeviceError for mixed devices, ShapeError and ValueError for the
// rest, always before computing anything. Results are new tensors unless called a view. Image tensors are [N, C, H, W];
// convolutions, pools and batch norms work and answer in channels_last and convert other inputs; elementwise ops keep
// the layout they get.
//
// Accuracy: in the tests' random problems, with inputs of magnitudes around 1, float32 results (y) and gradients (dx)
// differ from the float64 ones by at most so many times 2^-23 of the element itself, or of the largest magnitude in its
// tensor, at least 1.
//
//   op                  of          y    dx   reason
//   add                 tensor      1     4   one rounding; gradients are sums where an operand was broadcast
//   sub                 tensor      1     4   one rounding; gradients are sums where an operand was broadcast
//   mul                 tensor      1     8   as add, of up to three roundings
//   div                 tensor      1    24   as mul, of terms that b near 0 makes large
//   affine              tensor      2     1   a product and a sum
//   neg                 element     0     0   values are only moved
//   exp                 element     2     3   exp within 1 unit in the last place
//   log                 tensor      1     1   log within 1 unit of the tensor's largest, or of 1
//   sqrt                element     1     3   sqrt is correctly rounded
//   relu                element     0     0   values are only moved
//   sigmoid             element     3     6   an exponential, a sum and a quotient
//   tanh                tensor      1     2   1 − y² loses bits where |y| is near 1
//   clone               element     0     0   values are only moved
//   reshape             element     0     0   values are only moved
//   flatten             element     0     0   values are only moved
//   transpose           element     0     0   values are only moved
//   narrow              element     0     0   values are only moved
//   cat                 element     0     0   values are only moved
//   broadcast_to        tensor      0     4   values are repeated; a gradient is a sum
//   sum_to              element     4     0   of terms of one sign, in lanes of float32 added up in float64
//   to(Layout)          element     0     0   values are only moved
//   to(DType)           element     0     0   values are only moved
//   sum                 element     4     0   of terms of one sign, in lanes of float32 added up in float64
//   mean                element     4     2   of terms of one sign, in lanes of float32 added up in float64
//   max                 element     0     0   values are only moved
//   matmul              tensor     32    32   sums of up to 1,000 products of either sign, one after another
//   linear              tensor     32    32   sums of up to 1,000 products of either sign, one after another
//   linear_relu         tensor     32    32   sums of up to 1,000 products of either sign, one after another
//   conv2d              tensor     32    32   sums of up to 4,000 products of either sign
//   conv2d_relu         tensor     32    32   sums of up to 4,000 products of either sign
//   max_pool2d          tensor      0     4   values are moved; a gradient is a sum over windows
//   avg_pool2d          tensor      3     3   means of up to 25 elements
//   adaptive_avg_pool2d tensor      3     3   means of up to 400 elements
//   batch_norm          tensor      6    16   statistics, a root and a difference of sums
//   batch_norm_relu     tensor      6    16   as batch_norm
//   dropout             element     2     2   a product with a rounded scale
//   softmax             tensor      4     8   a quotient by a sum; its product with a difference
//   log_softmax         tensor      2     4   logits and a logarithm of a sum
//   cross_entropy       tensor      8     8   log_softmax, and sums over classes and rows
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <lockstep/core/tensor.h>

namespace lockstep {

// ---- Arithmetic, with NumPy's broadcasting; both tensors of one dtype. Division by zero follows IEEE.

Tensor add(const Tensor& a, const Tensor& b);  ///< a + b
Tensor sub(const Tensor& a, const Tensor& b);  ///< a − b
Tensor mul(const Tensor& a, const Tensor& b);  ///< a · b, element by element
Tensor div(const Tensor& a, const Tensor& b);  ///< a / b
/// x · scale + shift.
Tensor affine(const Tensor& x, double scale, double shift);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator+(const Tensor& x, double value) { return affine(x, 1.0, value); }
inline Tensor operator-(const Tensor& x, double value) { return affine(x, 1.0, -value); }
// Adding −0 leaves the sign of zeros.
inline Tensor operator*(const Tensor& x, double value) { return affine(x, value, -0.0); }
inline Tensor operator/(const Tensor& x, double value) { return affine(x, 1.0 / value, -0.0); }
inline Tensor operator*(double value, const Tensor& x) { return affine(x, value, -0.0); }

// ---- Elementwise functions of one tensor.

Tensor neg(const Tensor& x);   ///< −x
Tensor exp(const Tensor& x);   ///< eˣ
Tensor log(const Tensor& x);   ///< the natural logarithm; −inf at 0, NaN below
Tensor sqrt(const Tensor& x);  ///< the square root; NaN below 0
/// max(x, 0); NaN stays NaN; the gradient at 0 is 0.
Tensor relu(const Tensor& x);
Tensor sigmoid(const Tensor& x);  ///< 1 / (1 + e⁻ˣ)
Tensor tanh(const Tensor& x);     ///< the hyperbolic tangent
inline Tensor operator-(const Tensor& x) { return neg(x); }

// ---- Shape.

/// The same elements in row-major order under another shape of equal numel; one size may be −1 and is worked out. A
/// view where memory order allows.
Tensor reshape(const Tensor& x, const Shape& shape);
/// `reshape(x, {2, -1})`.
Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes);
/// Merges dimensions first..last (inclusive, negative from the end) into one.
Tensor flatten(const Tensor& x, int first = 0, int last = -1);
/// Exchanges two dimensions; row-major result.
Tensor transpose(const Tensor& x, int dim0, int dim1);
/// Elements [start, start + length) of one dimension. A view along dimension 0.
Tensor narrow(const Tensor& x, int dim, std::int64_t start, std::int64_t length);
/// Joins tensors that agree in all dimensions but `dim`. Throws ValueError for an empty list.
Tensor cat(std::span<const Tensor> tensors, int dim);
/// x repeated along dimensions of size 1 to `shape`.
Tensor broadcast_to(const Tensor& x, const Shape& shape);
/// The sum of x over the dimensions along which `shape` broadcasts to x's: the transpose of broadcast_to.
Tensor sum_to(const Tensor& x, const Shape& shape);

// ---- Reductions. Without `dims`, over all elements to a scalar.

Tensor sum(const Tensor& x);  ///< Σ x
/// Over `dims`, negative from the end, which then have size 1 (keepdim) or are gone.
Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim = false);
/// `sum(x, {2, 3})`.
Tensor sum(const Tensor& x, std::initializer_list<int> dims, bool keepdim = false);
Tensor mean(const Tensor& x);  ///< sum / numel; NaN for no elements
/// Over `dims`, as sum.
Tensor mean(const Tensor& x, std::span<const int> dims, bool keepdim = false);
/// `mean(x, {2, 3})`.
Tensor mean(const Tensor& x, std::initializer_list<int> dims, bool keepdim = false);
/// The maximum along `dim` and its first index (int64, no gradient); the gradient goes to that one element
/// (torch.max(x, dim)). NaN wins. Throws ShapeError if the dimension is empty.
std::pair<Tensor, Tensor> max(const Tensor& x, int dim, bool keepdim = false);
/// Index of the maximum along `dim`, int64; no gradient.
Tensor argmax(const Tensor& x, int dim, bool keepdim = false);
/// The k largest of the last dimension in descending order, and their indices (int64); no gradient.
std::pair<Tensor, Tensor> topk(const Tensor& x, std::int64_t k);
/// How many rows of `logits` [N, classes] have their `target` [N] (int64) among the k largest; no gradient.
std::int64_t count_correct(const Tensor& logits, const Tensor& target, std::int64_t k = 1);

// ---- Linear algebra.

/// [m, k] × [k, n] → [m, n], or [b, m, k] × [b, k, n] → [b, m, n].
Tensor matmul(const Tensor& a, const Tensor& b);
/// x · weightᵀ + bias with x [..., in], weight [out, in], bias [out] or undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});
/// relu(linear(x, weight, bias)) in one pass where the device can; on CUDA the ReLU may turn NaN into 0.
Tensor linear_relu(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

// ---- Convolution and pooling. x [N, C, H, W]; pools take N = 0, but no other size of 0.

using Pair = std::array<std::int64_t, 2>;  ///< height, width

/// Options of conv2d, by height and width.
struct Conv2dOptions {
  Pair stride = {1, 1};
  Pair padding = {0, 0};
  Pair dilation = {1, 1};
  std::int64_t groups = 1;
};
/// torch.nn.functional.conv2d: weight [K, C / groups, R, S], bias [K] or undefined → [N, K, P, Q]. N and C may be 0, no
/// other size.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv2dOptions& options = {});
/// relu(conv2d(x, weight, bias, options)) in one pass where the device can; on CUDA the ReLU may turn NaN into 0.
Tensor conv2d_relu(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv2dOptions& options = {});

/// Options of max_pool2d and avg_pool2d, by height and width.
struct Pool2dOptions {
  Pair kernel_size = {2, 2};
  Pair stride = {0, 0};  ///< 0 means equal to kernel_size
  Pair padding = {0, 0};
  Pair dilation = {1, 1};         ///< max_pool2d only
  bool ceil_mode = false;         ///< let windows hang over the far edge
  bool count_include_pad = true;  ///< avg_pool2d only: padding counts in the divisor
};
/// torch.nn.functional.max_pool2d. Padding counts as −inf, NaN wins. The gradient goes to the first of equal elements,
/// but to the last NaN.
Tensor max_pool2d(const Tensor& x, const Pool2dOptions& options);
/// torch.nn.functional.avg_pool2d.
Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& options);
/// torch.nn.functional.adaptive_avg_pool2d to [N, C, output[0], output[1]].
Tensor adaptive_avg_pool2d(const Tensor& x, Pair output);

// ---- Normalisation and regularisation.

/// Options of batch_norm and batch_norm_relu.
struct BatchNormOptions {
  bool training =
      true;  ///< normalise with the batch's statistics and update the running ones; else use the running ones
  double momentum = 0.1;  ///< running = (1 − momentum) · running + momentum · batch (with the unbiased variance)
  double eps = 1e-5;      ///< above 0; in evaluation 0 is allowed
};
/// torch.nn.functional.batch_norm over x [N, C] or [N, C, H, W]; weight, bias [C]. running_mean and running_var [C] are
/// updated in place in training (undefined: no running statistics kept). Training needs more than one value per channel
/// (ValueError).
Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options);
/// relu(batch_norm(x) + residual) in one pass each way; `residual` of x's shape, or undefined for none.
Tensor batch_norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                       const Tensor& running_var, const BatchNormOptions& options, const Tensor& residual = {});
/// In training multiplies each element by 0 with probability p (NaN and infinities then give NaN) and the others by
/// 1 / (1 − p); else returns x. Draws from default_generator().
Tensor dropout(const Tensor& x, double p, bool training = true);

// ---- Softmax and losses.

Tensor softmax(const Tensor& x, int dim);      ///< eˣ / Σ eˣ along `dim`; large x do not overflow
Tensor log_softmax(const Tensor& x, int dim);  ///< log(softmax(x)), more exactly

/// What a loss does with its values, one for each row.
enum class Reduction { none, mean, sum };
/// Options of cross_entropy.
struct CrossEntropyOptions {
  Reduction reduction = Reduction::mean;
  /// Rows with this target count neither in the loss nor in the mean; their gradient is 0. It must be negative where
  /// targets are probabilities.
  std::int64_t ignore_index = -100;
  double label_smoothing = 0.0;  ///< from 0 to 1: the part of the target spread evenly over the classes
};
/// torch.nn.functional.cross_entropy of logits [N, classes] against `target`: int64 class indices [N], or probabilities
/// [N, classes] of logits' dtype (no gradient for them; a class of probability 0 adds 0 even where its logit is −inf).
/// Reduced to a scalar, or [N] with Reduction::none. A target outside [0, classes) that is not ignore_index is a
/// ValueError on the CPU. On CUDA, where a check would stop the queue, it makes the loss of its row NaN, hence the mean
/// and the sum, and its row of the gradient.
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options = {});

}  // namespace lockstep
