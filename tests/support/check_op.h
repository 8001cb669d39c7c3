// One registry entry for each differentiable op, and the checks that the tests make from it. To have a new op tested,
// add its entry to op_registry_<family>.cpp. See core/ops_test.cpp for what is made of it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/core/base/philox.h>
#include <lockstep/core/tensor.h>

namespace lockstep::test {

/// The draws of one entry's samples: a function of seed and stream. All values are float64 and exact in float32.
class Draws {
 public:
  explicit Draws(std::uint64_t seed, std::uint64_t stream = 0) : stream_(seed, stream) {}

  /// Uniform in [low, high).
  double next(double low, double high);
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(stream_.next_below(static_cast<std::uint64_t>(bound)));
  }
  /// Uniform integer in [low, high].
  std::int64_t from_to(std::int64_t low, std::int64_t high) { return low + below(high - low + 1); }
  bool coin() { return below(2) == 1; }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<std::int64_t>(values.size()))];
  }

  Tensor uniform(const Shape& shape, Layout layout = Layout::row_major, double low = -2.0, double high = 2.0);
  /// Magnitudes from 0.1 to 2 of either sign: away from the kink of relu and the pole of div.
  Tensor away_from_zero(const Shape& shape, Layout layout = Layout::row_major);
  /// Values that differ by at least 1/16 from each other, in random order: away from the kinks of maxima.
  Tensor distinct(const Shape& shape, Layout layout = Layout::row_major);
  /// int64 in [0, bound).
  Tensor indices(const Shape& shape, std::int64_t bound);

 private:
  PhiloxStream stream_;
};

/// One call of an op.
struct Sample {
  std::string attributes;      ///< everything but the inputs: "stride [2, 1], groups 3"
  std::vector<Tensor> inputs;  ///< float64, int64 where the op wants indices, undefined where it allows that
  std::function<Tensor(const std::vector<Tensor>&)> run;  ///< the op with its attributes on such inputs, of any dtype
  std::vector<std::size_t> constants = {};                ///< floating inputs that the op gives no gradient
  bool views = false;                                     ///< give the op views into the middle of larger tensors
  double step = 1e-6;                                     ///< of the central differences
  /// What `run` must give for float64 inputs, by the plainest loops, sharing nothing with the library's kernels
  /// (support/reference.h): row-major.
  std::function<Tensor(const std::vector<Tensor>&)> reference = {};
};

/// Bound on |float32 − float64|: `forward` or `gradient` times 2^-23 times the scale, plus nothing.
struct Tolerance {
  enum class Scale {
    element,  ///< |value| of the element
    tensor,   ///< the largest |value| of the tensor, at least 1, which is the size of the terms that were summed
  };
  Scale scale;
  double forward, gradient;
  const char* reason;
  double roundings = 4;  ///< to a 16-bit type that results and gradients of such a type may have lost on their way
};

/// What the float32 bits of results and gradients depend on besides the inputs (and, of a random op, the seed).
enum class Determinism {
  any_threads,   ///< nothing
  same_threads,  ///< num_threads()
};

/// One wrong call of an op.
struct Misuse {
  std::string what;
  std::function<void()> call;
  std::function<bool(const Error&)> has_type;
  std::string op;                   ///< that the error must name
  std::vector<std::string> values;  ///< that the message must show
};

template <class E>
Misuse wrong(std::string op, std::string what, std::function<void()> call, std::vector<std::string> values = {}) {
  return {std::move(what), std::move(call), [](const Error& e) { return dynamic_cast<const E*>(&e) != nullptr; },
          std::move(op), std::move(values)};
}

struct OpEntry {
  std::string name;  ///< as in core/ops.h
  Determinism determinism;
  Tolerance tolerance;
  /// Small calls, of which every input element is moved by central differences: odd, size 1, empty, broadcast, both
  /// layouts, views.
  std::function<std::vector<Sample>(Draws&)> samples;
  /// One random call of the size that vector paths, tails and several threads need, and that takes the float64 op at
  /// most some milliseconds.
  std::function<Sample(Draws&)> problem;
  /// Calls of the size that networks make, one row of the benchmark each; made for float64 like all samples.
  std::function<std::vector<Sample>(Draws&)> benchmarks;
  std::vector<Misuse> misuse;
};

/// All differentiable ops.
const std::vector<OpEntry>& op_registry();

/// The samples of an entry, always the same.
std::vector<Sample> samples_of(const OpEntry& entry);
/// Its random problem of that number: a function of the seed, the entry and the number.
Sample problem_of(const OpEntry& entry, std::uint64_t seed, std::int64_t number);

/// "conv2d([2, 3, 5, 5] channels_last, [4, 3, 3, 3], undefined; stride [2, 2])": unique to a sample.
std::string describe(const OpEntry& entry, const Sample& sample);

/// What one backward check found. `failure` is empty if all is well.
struct GradientCheck {
  std::int64_t elements = 0;  ///< gradient elements compared
  std::int64_t nonzero = 0;   ///< of these, how many are not zero: a check of zeros shows little
  std::string failure;
};

/// Compares the gradients of Σ v · op(inputs), v random, with central differences for every element of every
/// differentiable input in float64: |analytic − numeric| ≤ 1e-5 + 1e-3 · |numeric|. Also that each gradient has its
/// input's shape, dtype and layout, and that asking for one input's gradient alone gives the same bits.
GradientCheck check_gradients(const Sample& sample);

/// Compares the float64 op with the sample's reference: |difference| ≤ 1e-12 times the largest |value|, at least 1.
/// Returns what is wrong, or nothing.
std::string check_reference(const Sample& sample);

/// What the comparison of float32 with float64 found.
struct PrecisionCheck {
  double worst = 0.0;  ///< largest error as a fraction of the bound
  std::string failure;
};

/// Compares forward and gradients of a dtype on a device with float64 on the CPU, both from inputs rounded to that
/// dtype. For the 16-bit types the tolerance, which is float32's, is widened by its `roundings` to the type; what is
/// moved only must be equal there too.
PrecisionCheck check_precision(const Sample& sample, const Tolerance& tolerance, DType dtype = DType::float32,
                               Device device = kCpu);

/// What runs in float32 with 1, 2, 3 and 5 threads, twice each, found.
struct DeterminismCheck {
  bool depends_on_threads = false;  ///< some bits were others with another number of threads
  std::string failure;              ///< bits that differ where the class says that they do not
};
DeterminismCheck check_determinism(const Sample& sample, Determinism determinism);

/// Whether a second run of forward and backward on a device gives the bits of the first.
bool repeats_its_bits(const Sample& sample, DType dtype, Device device);

/// The sample's inputs as leaves of that dtype, for runs of one's own.
std::vector<Tensor> make_leaves(const Sample& sample, DType dtype, Device device = kCpu);

}  // namespace lockstep::test
