// A process group whose ranks are processes, on one machine or many, started by mpirun or srun.
#pragma once

#include <memory>

#include <lockstep/parallel/launch_env.h>
#include <lockstep/parallel/process_group.h>

namespace lockstep {

/// This process's end of the group of all processes that MPI has started together (alone: a group of one). It carries
/// CPU tensors. MPI belongs to one thread of the group, which starts it, makes every call of it, in the order in which
/// collectives were called, and ends it; so collectives go on while other threads compute, and the program itself must
/// not call MPI. Reductions give the bits of a LocalProcessGroup of as many ranks. bytes_sent() leaves out the few
/// bytes by which calls are compared.
///
/// A process has one such group in its life. Its destructor waits for the other ranks to destroy theirs; those that
/// call a collective instead get a CommError. While an exception passes through, the destructor does not wait: the
/// other ranks are told so in the collectives that they call, and after 5 s without them, for which the end of this
/// process waits, the job is ended with MPI_Abort.
///
/// Throws CommError if this library was built without MPI, for a second group, if the program has started MPI itself,
/// or if MPI gives this process another rank or size than `env` (by default, what launch_env finds) says: processes
/// that torchrun has started, for example, are nothing to MPI.
std::unique_ptr<ProcessGroup> mpi_process_group(const LaunchEnv& env = launch_env());

}  // namespace lockstep
