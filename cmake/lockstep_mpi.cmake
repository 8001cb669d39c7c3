# Whether processes can train together over MPI.
#   ON    yes; fails naming what is missing
#   OFF   no: mpi_process_group() says so
#   AUTO  ON where MPI is found, else OFF
set(LOCKSTEP_MPI AUTO CACHE STRING "Processes that train together over MPI: AUTO, ON or OFF")
set_property(CACHE LOCKSTEP_MPI PROPERTY STRINGS AUTO ON OFF)
string(TOUPPER "${LOCKSTEP_MPI}" lockstep_mpi)
if(NOT lockstep_mpi MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LOCKSTEP_MPI: expected AUTO, ON or OFF, got '${LOCKSTEP_MPI}'")
endif()

set(reason "as asked for")
if(NOT lockstep_mpi STREQUAL "OFF")
  set(MPI_CXX_SKIP_MPICXX ON)  # the C functions only
  find_package(MPI QUIET COMPONENTS CXX)
  if(NOT MPI_CXX_FOUND AND lockstep_mpi STREQUAL "ON")
    message(FATAL_ERROR "LOCKSTEP_MPI=ON: expected mpicxx and mpi.h, which were not found; Debian has them in "
                        "libopenmpi-dev and openmpi-bin. MPI_HOME can name the folder of another MPI.")
  elseif(lockstep_mpi STREQUAL "AUTO")
    set(lockstep_mpi OFF)
    set(reason "not found: MPI")
    if(MPI_CXX_FOUND)
      set(lockstep_mpi ON)
      set(reason "MPI was found")
    endif()
  endif()
endif()
message(STATUS "LOCKSTEP_MPI: ${lockstep_mpi} (${reason})")
