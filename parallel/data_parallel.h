// Training one model on several devices of this process (torch.nn.DataParallel).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <lockstep/layers/module.h>
#include <lockstep/parallel/reducer.h>

namespace lockstep {

/// `DataParallel model(resnet18(), {.replicas = 4});` and go on as with the module alone. A forward cuts the batch into
/// R replicas (runs of consecutive rows), computes them side by side with copies of the module, and puts their results
/// together; backward sums their gradients along one tree. What comes out, bit for bit, is a function of R, not of the
/// devices: four replicas on one GPU, or on the CPU, do what four GPUs do. Random draws are keyed by replica; buffers
/// (running statistics) are those of replica 0. Replicas default to one for each device, and one replica is the module
/// itself.
///
/// Its parameters are the module's, under names that begin with "module.", as in PyTorch. Copies of the module on the
/// same device share its parameters' memory. Hooks on modules inside are not called.
class DataParallel final : public Module {
 public:
  /// Takes the module, and moves it to the first of the devices: where the replicas run, and the results are; one may
  /// occur several times, each time with a thread of its own. No devices: all of CUDA, at most one for each replica;
  /// without any, the CPU with a thread for each replica, at most num_threads(). Throws DeviceError for devices that do
  /// not exist or are of different kinds, ValueError for fewer replicas than devices.
  template <std::derived_from<Module> M>
  explicit DataParallel(M module, const ReplicaOptions& options = {}, std::vector<Device> devices = {})
      : DataParallel(detail::ModuleBox(std::move(module)), options, std::move(devices)) {}
  DataParallel(DataParallel&&) noexcept;
  ~DataParallel() override;

  /// x [N, ...]: what the module makes of it. An exception of a replica is rethrown when all have ended.
  Tensor forward(const Tensor& x) override;

  Module& module() const { return child(0); }                      ///< the module itself
  std::int64_t replicas() const { return options_.replicas; }      ///< R
  const std::vector<Device>& devices() const { return devices_; }  ///< where they run
  ReducerStats stats() const;                                      ///< of the first device's reductions

  std::string type_name() const override { return "DataParallel"; }

 private:
  DataParallel(detail::ModuleBox module, const ReplicaOptions& options, std::vector<Device> devices);

  class Engine;
  ReplicaOptions options_;
  std::vector<Device> devices_;
  std::shared_ptr<Engine> engine_;
};

}  // namespace lockstep
