# Which headers are public, where the build finds them, and the umbrella header that includes them all.

# Folders of the library, in the order in which they may include each other.
set(LOCKSTEP_FOLDERS core kernels layers data parallel)

# Not installed: headers that serve our own sources only, and so may include third-party headers.
set(LOCKSTEP_INTERNAL_HEADERS
  "^core/base/check\\.h$" "^core/base/cuda_check\\.h$" "^core/io/folder_lock\\.h$" "^core/ops/"
  "^kernels/cpu/" "^kernels/cuda/" "^layers/python_repr\\.h$"
  "^parallel/host_reduce\\.h$" "^parallel/local_cuda\\.h$" "^parallel/mpi_collectives\\.h$" "^parallel/replica_scope\\.h$"
  "^parallel/team\\.h$")

list(TRANSFORM LOCKSTEP_FOLDERS APPEND "/*.h" OUTPUT_VARIABLE globs)
file(GLOB_RECURSE LOCKSTEP_PUBLIC_HEADERS CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} ${globs})
foreach(internal IN LISTS LOCKSTEP_INTERNAL_HEADERS)
  list(FILTER LOCKSTEP_PUBLIC_HEADERS EXCLUDE REGEX ${internal})
endforeach()

# Headers are included as <lockstep/core/tensor.h>, in the tree and installed alike: the build tree links the source folders
# under one 'lockstep' folder.
set(LOCKSTEP_INCLUDE_DIR ${CMAKE_CURRENT_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${LOCKSTEP_INCLUDE_DIR}/lockstep)
foreach(folder IN LISTS LOCKSTEP_FOLDERS)
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR}/${folder} ${LOCKSTEP_INCLUDE_DIR}/lockstep/${folder} SYMBOLIC)
endforeach()

list(TRANSFORM LOCKSTEP_PUBLIC_HEADERS REPLACE "(.+)" "#include <lockstep/\\1>" OUTPUT_VARIABLE LOCKSTEP_INCLUDES)
list(JOIN LOCKSTEP_INCLUDES "\n" LOCKSTEP_INCLUDES)
configure_file(cmake/lockstep.h.in ${LOCKSTEP_INCLUDE_DIR}/lockstep/lockstep.h @ONLY)
