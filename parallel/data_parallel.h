// Training one model on several devices of this process (torch.nn.DataParallel).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <lockstep/layers/module.h>
#include <lockstep/parallel/reducer.h>

namespace lockstep {

/// Those of the reducer, and:
struct DataParallelOptions : ReducerOptions {
  /// Where the replicas run; a device may occur several times, each time with a thread of its own. The first one is
  /// where the module and the results are. Empty: all CUDA devices, at most one for each replica; without any, the CPU
  /// with a thread for each replica, at most num_threads().
  std::vector<Device> devices = {};
  /// Threads that a replica computes with; 0: one if there are several replicas, else the caller's num_threads(). The
  /// bits depend on it.
  int threads = 0;
};

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
  using Options = DataParallelOptions;

  /// Takes the module, and moves it to the first device. Throws DeviceError for devices that do not exist or are of
  /// different kinds, ValueError for fewer replicas than devices.
  template <std::derived_from<Module> M>
  explicit DataParallel(M module, const Options& options = {})
      : DataParallel(detail::ModuleBox(std::move(module)), options) {}
  DataParallel(DataParallel&&) noexcept;
  ~DataParallel() override;

  /// x [N, ...]: what the module makes of it. An exception of a replica is rethrown when all have ended.
  Tensor forward(const Tensor& x) override;

  Module& module() const { return child(0); }                              ///< the module itself
  std::int64_t replicas() const { return options_.replicas; }              ///< R
  const std::vector<Device>& devices() const { return options_.devices; }  ///< where they run
  ReducerStats stats() const;                                              ///< of the first device's reductions

  std::string type_name() const override { return "DataParallel"; }

 private:
  DataParallel(detail::ModuleBox module, const Options& options);

  class Engine;
  Options options_;
  std::shared_ptr<Engine> engine_;
};

}  // namespace lockstep
