// A process group whose ranks are threads of this process: CPU replicas, or GPUs that read each other's memory.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <lockstep/parallel/process_group.h>

namespace lockstep {

namespace detail {
class LocalRoom;
}

/// One rank's end. A collective is computed by the ranks that wait for it, each taking blocks of it, so that no thread
/// is needed besides theirs; on CUDA it is queued on streams of its own, one for each device.
class LocalProcessGroup final : public ProcessGroup {
 public:
  /// The ends of a new group: the r-th is for the thread that computes on devices[r]. A device may occur several times.
  /// Throws ValueError for no device, DeviceError for one that does not exist or a mix of the CPU and CUDA.
  static std::vector<std::unique_ptr<LocalProcessGroup>> create(std::span<const Device> devices);
  ~LocalProcessGroup() override;

  std::string backend() const override { return "local"; }
  /// Makes all collectives of the group, those under way too, throw a CommError with this reason, on every rank.
  void abort(const std::string& reason);

 private:
  LocalProcessGroup(std::shared_ptr<detail::LocalRoom> room, int rank, int size, Device device);
  Work start(Collective collective) override;

  std::shared_ptr<detail::LocalRoom> room_;
};

/// Runs body(group) for each of the devices on a thread of its own, each with its end of a new group (torch's
/// mp.spawn and init_process_group in one). A rank computes with `threads` threads (0: one if there are several ranks,
/// else the caller's number), and starts with the caller's default generator. When a body throws, the collectives of
/// the others fail, and the first exception is rethrown here after all have ended. Throws as LocalProcessGroup::create.
void spawn(std::span<const Device> devices, const std::function<void(ProcessGroup& group)>& body, int threads = 0);

}  // namespace lockstep
