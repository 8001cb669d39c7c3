// ResNet-18 trains as it does in PyTorch. What PyTorch computed is made by scripts/make_fixtures.py; the small file is
// committed, the large ones lie in the folder that the environment variable LOCKSTEP_FIXTURES names. Measured figures
// are printed as they are found.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include <lockstep/core/io/safetensors.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/optim/sgd.h>
#include <lockstep/layers/models/resnet.h>

using namespace lockstep;

namespace {

constexpr SGD::Options kSgd{.lr = 0.01, .momentum = 0.9};

void report(const std::string& name, double value) {
  std::printf("%s: %.3g\n", name.c_str(), value);
  std::fflush(stdout);
}

double norm(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

double relative_difference(double value, double expected) { return std::abs(value - expected) / std::abs(expected); }

/// The loss, after a backward pass.
double compute_gradients(ResNet& model, const Tensor& images, const Tensor& labels) {
  model.zero_grad();
  const Tensor loss = cross_entropy(model(images), labels);
  loss.backward();
  return loss.item();
}

/// Takes one step per batch; the largest relative difference of the losses from PyTorch's.
double worst_loss_difference(ResNet& model, const std::vector<std::pair<Tensor, Tensor>>& batches,
                             const std::vector<double>& expected) {
  REQUIRE(batches.size() == 20);
  REQUIRE(expected.size() == 20);
  SGD optimizer(model.parameters(), kSgd);
  double worst = 0.0;
  for (std::size_t step = 0; step < batches.size(); ++step) {
    const double loss = compute_gradients(model, batches[step].first, batches[step].second);
    worst = std::max(worst, std::isfinite(loss) ? relative_difference(loss, expected[step]) : HUGE_VAL);
    optimizer.step();
  }
  return worst;
}

/// Errors of float32 gradients against float64, ours and PyTorch's side by side.
class GradientErrors {
 public:
  /// One parameter: the norms of the exact gradient and of the two differences from it. PyTorch's counts as at least a
  /// few last bits, since the error of the few elements of a bias can be small by luck.
  void add(const std::string& name, double exact, double ours, double theirs) {
    exact_.push_back(exact);
    ours_.push_back(ours);
    theirs_.push_back(theirs);
    const double ratio = ours / std::max(theirs, 4 * 0x1p-23 * exact);
    if (!(ratio <= worst_ratio_)) {
      worst_ratio_ = ratio;
      worst_name_ = name;
    }
  }

  void check(const std::string& label) const {
    const double overall = norm(ours_) / norm(exact_);
    report(label + " gradient error", overall);
    report(label + " gradient error of PyTorch", norm(theirs_) / norm(exact_));
    report(label + " largest ratio of a parameter's errors (" + worst_name_ + ")", worst_ratio_);
    CHECK(norm(ours_) <= 3.0 * norm(theirs_));
    CHECK(worst_ratio_ <= 3.0);
  }

 private:
  std::vector<double> exact_, ours_, theirs_;
  double worst_ratio_ = 0.0;
  std::string worst_name_;
};

double norm_of_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  std::vector<double> difference(a.size());
  std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<>());
  return norm(difference);
}

// ---- Numbers by formula: see scripts/make_fixtures.py.

std::uint64_t hash_bits(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = ((seed << 32) + index) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

float hash_uniform(std::uint64_t seed, std::uint64_t index) {
  return static_cast<float>(hash_bits(seed, index) >> 40) * 0x1p-23f - 1.0f;
}

Tensor hash_tensor(std::uint64_t seed, const Shape& shape) {
  Tensor tensor = Tensor::empty(shape);
  for (std::int64_t i = 0; i < shape.numel(); ++i)
    tensor.data<float>()[i] = hash_uniform(seed, static_cast<std::uint64_t>(i));
  return tensor;
}

void fill_by_formula(ResNet& model) {
  std::uint64_t seed = 1;
  for (Tensor& parameter : model.parameters()) {
    Tensor values = hash_tensor(seed++, parameter.shape());
    const bool is_matrix = parameter.rank() > 1;
    const double fan_in = static_cast<double>(parameter.numel() / parameter.size(0));
    const float scale = is_matrix ? static_cast<float>(std::sqrt(6.0 / fan_in)) : 0.25f;
    for (std::int64_t i = 0; i < values.numel(); ++i) {
      float& value = values.data<float>()[i];
      value = scale * value + (is_matrix ? 0.0f : 1.0f);
    }
    const NoGradGuard no_grad;
    parameter.copy_(values);
  }
}

std::pair<Tensor, Tensor> batch_by_formula(std::uint64_t index, std::int64_t size) {
  std::vector<std::int64_t> labels(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < labels.size(); ++i)
    labels[i] = static_cast<std::int64_t>(hash_bits(2000 + index, i) % 10);
  return {hash_tensor(1000 + index, {size, 3, 32, 32}), Tensor::from(labels, {size})};
}

void check_fingerprint(const std::string& name, const std::vector<double>& values,
                       const std::vector<double>& expected) {
  double dot = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) dot += values[i] * static_cast<double>(hash_uniform(99, i));
  INFO(name);
  const double tolerance = 1e-9 * expected[0] + 1e-15;
  CHECK(std::abs(norm(values) - expected[0]) <= tolerance);
  CHECK(std::abs(dot - expected[1]) <= tolerance);
}

nlohmann::json narrow_fixture() {
  std::ifstream file(LOCKSTEP_TEST_DATA "/../pytorch/data/narrow_resnet18.json");
  REQUIRE(file.is_open());
  return nlohmann::json::parse(file);
}

/// A file of LOCKSTEP_FIXTURES. Without it the test ends as skipped, which for ctest is the exit code 77.
StateDict large_fixture(const std::string& name) {
  const char* folder = std::getenv("LOCKSTEP_FIXTURES");
  const auto path = std::filesystem::path(folder != nullptr ? folder : "") / name;
  if (folder == nullptr || !std::filesystem::exists(path)) {
    std::printf("skipped: no %s; run scripts/make_fixtures.py <folder> and set LOCKSTEP_FIXTURES to that folder\n",
                name.c_str());
    std::exit(77);
  }
  return load_safetensors(path);
}

StateDict entries_under(const StateDict& fixture, std::string_view prefix) {
  StateDict entries;
  for (const auto& [name, tensor] : fixture) {
    if (name.starts_with(prefix)) entries.insert(name.substr(prefix.size()), tensor);
  }
  return entries;
}

}  // namespace

TEST_CASE("a narrow ResNet-18 trains in float64 as in PyTorch") {
  const nlohmann::json fixture = narrow_fixture();
  ResNet model = resnet18({.num_classes = 10, .width = 8});
  fill_by_formula(model);
  model.to(DType::float64);
  const std::vector<double> losses = fixture["losses"];
  std::vector<std::pair<Tensor, Tensor>> batches;
  for (std::size_t step = 0; step < losses.size(); ++step) {
    auto [images, labels] = batch_by_formula(step, 16);
    batches.emplace_back(images.to(DType::float64), labels);
  }

  ResNet first_step = clone(model);
  compute_gradients(first_step, batches[0].first, batches[0].second);
  for (const auto& [name, parameter] : first_step.named_parameters()) {
    check_fingerprint(name + ".grad", parameter.grad().to_vector<double>(), fixture["gradient"][name]);
  }

  const double worst = worst_loss_difference(model, batches, losses);
  report("narrow float64, 20 steps, largest relative difference of a loss", worst);
  CHECK(worst < 1e-9);
  for (const auto& [name, tensor] : model.state_dict()) {
    check_fingerprint(name, tensor.to_vector<double>(), fixture["final_state"][name]);
  }
}

TEST_CASE("the float32 gradient of a narrow ResNet-18 is as exact as PyTorch's") {
  const nlohmann::json fixture = narrow_fixture();
  ResNet model = resnet18({.num_classes = 10, .width = 8});
  fill_by_formula(model);
  ResNet exact = clone(model);
  exact.to(DType::float64);

  const auto [images, labels] = batch_by_formula(0, 16);
  const double loss = compute_gradients(model, images, labels);
  compute_gradients(exact, images.to(DType::float64), labels);
  const double difference = relative_difference(loss, fixture["loss_float64"]);
  report("narrow float32, relative difference of the loss", difference);
  CHECK(difference <= 1e-6);

  GradientErrors errors;
  const auto exact_parameters = exact.named_parameters();
  std::size_t index = 0;
  for (const auto& [name, parameter] : model.named_parameters()) {
    const auto truth = exact_parameters[index++].second.grad().to_vector<double>();
    const double ours = norm_of_difference(parameter.grad().to_vector<double>(), truth);
    errors.add(name, norm(truth), ours, fixture["float32_gradient_error"][name]);
  }
  errors.check("narrow float32");
}

TEST_CASE("ResNet-18 trains in float64 as in PyTorch", "[parity]") {
  const StateDict fixture = large_fixture("trajectory_float64.safetensors");
  ResNet model = resnet18({.num_classes = 10});
  model.load_state_dict(entries_under(fixture, "weights."));
  model.to(DType::float64);

  const auto losses = fixture.at("losses").to_vector<double>();
  const Tensor images = fixture.at("images").to(DType::float64);
  const std::int64_t batch_size = images.size(0) / static_cast<std::int64_t>(losses.size());
  std::vector<std::pair<Tensor, Tensor>> batches;
  for (std::int64_t start = 0; start < images.size(0); start += batch_size) {
    batches.emplace_back(narrow(images, 0, start, batch_size), narrow(fixture.at("labels"), 0, start, batch_size));
  }
  const double worst = worst_loss_difference(model, batches, losses);
  report("float64, 20 steps, largest relative difference of a loss", worst);
  CHECK(worst < 1e-9);
}

TEST_CASE("float32 losses and gradients of ResNet-18 are as exact as PyTorch's", "[parity]") {
  for (const int steps : {0, 10, 30, 70}) {
    const std::string label = "after " + std::to_string(steps) + " steps:";
    INFO(label);
    const StateDict fixture = large_fixture("gradients_" + std::to_string(steps) + ".safetensors");
    ResNet model = resnet18({.num_classes = 10});
    model.load_state_dict(entries_under(fixture, "weights."));
    const double loss = compute_gradients(model, fixture.at("images"), fixture.at("labels"));
    const double difference = relative_difference(loss, fixture.at("loss_float32").item());
    report(label + " relative difference of the loss from PyTorch's", difference);
    report(label + " relative error of the loss", relative_difference(loss, fixture.at("loss_float64").item()));
    CHECK(difference <= 1e-6);

    GradientErrors errors;
    for (const auto& [name, parameter] : model.named_parameters()) {
      const auto truth = fixture.at("gradient." + name).to_vector<double>();
      const double ours = norm_of_difference(parameter.grad().to_vector<double>(), truth);
      errors.add(name, norm(truth), ours, fixture.at("error." + name).item());
    }
    errors.check(label);
  }
}
