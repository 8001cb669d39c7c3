// Which rank of how many this process is, as told by whatever has launched it.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace lockstep {

/// A process's place among all that have been launched, and among those on its machine.
struct LaunchEnv {
  int rank = 0;                             ///< in [0, size)
  int size = 1;                             ///< processes
  int local_rank = 0;                       ///< in [0, local_size): the number of the GPU to use, for example
  int local_size = 1;                       ///< processes on this machine
  std::string source = "a single process";  ///< who says so: "torchrun", "Slurm", "Open MPI", "PMI", "an argument"
};

/// "rank 1 of 4, 1 of 2 on this machine, by torchrun": for the first line that a program prints.
std::string to_string(const LaunchEnv& env);

/// The value of an environment variable, or null, as std::getenv.
using GetVariable = std::function<const char*(const char* name)>;

/// Finds it in what comes first of: the argument; the variables of torchrun (RANK, WORLD_SIZE, LOCAL_RANK,
/// LOCAL_WORLD_SIZE); those of a Slurm step (SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID,
/// SLURM_STEP_TASKS_PER_NODE, SLURM_NODEID); Open MPI's mpirun (OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE);
/// PMI, that is MPICH and Intel MPI (PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS). Otherwise the process is
/// alone.
///
/// Launchers may be nested: torchrun or mpirun that Slurm or mpirun has started once on each machine. Sources that
/// disagree for another reason are a CommError that names both, and so are variables of which only some are set, that
/// are no numbers, or that cannot be (a rank outside [0, size)). An argument that cannot be is a ValueError.
LaunchEnv launch_env(const std::optional<LaunchEnv>& argument = {}, const GetVariable& get_variable = {});

}  // namespace lockstep
