// Collectives of a LocalProcessGroup whose ranks compute on CUDA devices. Internal.
#pragma once

#include <map>
#include <span>
#include <vector>

#include <lockstep/core/base/stream.h>
#include <lockstep/parallel/process_group.h>

namespace lockstep::detail {

/// Queues them on a stream of its own for each device; the devices read each other's memory.
class LocalCuda {
 public:
  /// Queues the collective that all ranks have called, calls[r] by rank r, after ready[r]. Returns an event for each
  /// rank: its results are there.
  std::vector<Event> queue(std::span<const Collective> calls, std::span<const Event> ready);

 private:
  std::map<int, Stream> streams_;  // by device
};

}  // namespace lockstep::detail
