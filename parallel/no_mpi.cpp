// mpi_process_group() of a build without MPI.
#include <lockstep/core/base/error.h>
#include <lockstep/parallel/mpi_process_group.h>

namespace lockstep {

std::unique_ptr<ProcessGroup> mpi_process_group(const LaunchEnv&) {
  throw CommError("mpi_process_group",
                  "expected a build with MPI, got one without: install it (Debian: libopenmpi-dev and openmpi-bin) and "
                  "configure with -DLOCKSTEP_MPI=ON");
}

}  // namespace lockstep
