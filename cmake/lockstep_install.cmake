# cmake --install: the library, its public headers (with CUDA also the one for kernels), and the package files that
# find_package(lockstep) reads.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
install(TARGETS lockstep EXPORT lockstep_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT lockstep_targets NAMESPACE lockstep:: FILE lockstepTargets.cmake DESTINATION ${package_dir})

foreach(header IN LISTS LOCKSTEP_PUBLIC_HEADERS)
  cmake_path(GET header PARENT_PATH folder)
  install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/${folder})
endforeach()
if(lockstep_cuda STREQUAL "ON")  # for ops of the user's own, docs/own_op.md; not in the umbrella header, as only nvcc takes it
  install(FILES kernels/cuda/launch.cuh DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/kernels/cuda)
endif()
install(FILES ${LOCKSTEP_INCLUDE_DIR}/lockstep/lockstep.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep)

configure_package_config_file(cmake/lockstepConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/lockstepConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/lockstepConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/lockstepConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/lockstepConfigVersion.cmake
              cmake/FindCUDNN.cmake cmake/FindDNNL.cmake cmake/FindLibbacktrace.cmake
        DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
