// Small models and data for the tests of parallel training.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <lockstep/lockstep.h>

namespace lockstep::testing {

/// Convolutions, batch norm with ReLU, dropout, a linear layer: what a replica's random numbers and statistics can
/// spoil.
struct SmallNet : Module {
  Conv2d conv1{3, 8, 3, {.stride = {1, 1}, .padding = {1, 1}, .bias = false}};
  BatchNorm2d norm{8};
  ReLU relu;
  Conv2d conv2{8, 12, 3, {.stride = {2, 2}}};
  Linear fc{12, 5};
  bool with_norm = true, with_dropout = true;

  explicit SmallNet(bool norm_ = true, bool dropout_ = true) : with_norm(norm_), with_dropout(dropout_) {
    register_module("conv1", conv1);
    if (with_norm) register_module("norm", norm);
    register_module("conv2", conv2);
    register_module("fc", fc);
  }

  Tensor forward(const Tensor& x) override {
    Tensor y = conv1(x);
    y = with_norm ? batch_norm_relu(norm, relu, y) : lockstep::relu(y);
    y = lockstep::relu(conv2(y));
    if (with_dropout) y = dropout(y, 0.25, is_training());
    return fc(mean(y, {2, 3}));
  }
};

/// n random images [3, 8, 8] with labels that depend on them.
inline Batch random_batch(std::int64_t n, std::uint64_t stream, DType dtype = DType::float32) {
  const Generator before = default_generator();
  default_generator() = {1234, stream << 20};
  Batch batch{Tensor::randn({n, 3, 8, 8}, {.dtype = dtype}).to(Layout::channels_last),
              Tensor::empty({n}, {.dtype = DType::int64}),
              {}};
  for (std::int64_t i = 0; i < n; ++i) {
    batch.labels.data<std::int64_t>()[i] =
        static_cast<std::int64_t>((stream * 7 + static_cast<std::uint64_t>(i) * 3) % 5);
    batch.indices.push_back(i);
  }
  default_generator() = before;
  return batch;
}

/// Rows [run) of a batch, as a rank's loader would give them.
inline Batch rows_of(const Batch& batch, Run run) {
  Batch rows{narrow(batch.images, 0, run.begin, run.size()).clone(),
             narrow(batch.labels, 0, run.begin, run.size()).clone(),
             {}};
  rows.indices.assign(batch.indices.begin() + run.begin, batch.indices.begin() + run.end);
  return rows;
}

/// The rows of the replicas in `own`, of `replicas`.
inline Batch rows_of_replicas(const Batch& batch, Run own, std::int64_t replicas) {
  return rows_of(batch,
                 {part_of(batch.size(), replicas, own.begin).begin, part_of(batch.size(), replicas, own.end - 1).end});
}

/// `n` ranks on the CPU, or spread over the CUDA devices.
inline std::vector<Device> devices_of(Device::Type type, int n) {
  std::vector<Device> devices;
  for (int i = 0; i < n; ++i) {
    devices.push_back(type == Device::Type::cpu ? kCpu : Device{Device::Type::cuda, i % cuda_device_count()});
  }
  return devices;
}

/// The CPU, and CUDA where there is a device.
inline std::vector<Device::Type> device_types() {
  if (cuda_device_count() == 0) return {Device::Type::cpu};
  return {Device::Type::cpu, Device::Type::cuda};
}

}  // namespace lockstep::testing
