// The process group of the MPI tests: one for the whole program, since a process has one in its life.
#pragma once

#include <lockstep/parallel/mpi_process_group.h>

namespace lockstep {

inline ProcessGroup& group() {
  static const std::unique_ptr<ProcessGroup> instance = mpi_process_group();
  return *instance;
}

}  // namespace lockstep
