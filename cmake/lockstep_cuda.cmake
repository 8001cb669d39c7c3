# The CUDA backend: which kind LOCKSTEP_CUDA stands for here, and how kernel sources (.cu) are compiled.
#   ON        for NVIDIA GPUs, with nvcc; fails naming what is missing
#   EMULATED  the same sources with the host compiler, run on emulated devices that check every memory access
#   OFF       CPU only
#   AUTO      ON where nvcc, cuDNN, NCCL and a driver are found, else OFF
set(LOCKSTEP_CUDA AUTO CACHE STRING "CUDA backend: AUTO, ON, OFF or EMULATED")
set_property(CACHE LOCKSTEP_CUDA PROPERTY STRINGS AUTO ON OFF EMULATED)
string(TOUPPER "${LOCKSTEP_CUDA}" lockstep_cuda)
if(NOT lockstep_cuda MATCHES "^(AUTO|ON|OFF|EMULATED)$")
  message(FATAL_ERROR "LOCKSTEP_CUDA: expected AUTO, ON, OFF or EMULATED, got '${LOCKSTEP_CUDA}'")
endif()
list(APPEND CMAKE_PREFIX_PATH ${CMAKE_CURRENT_SOURCE_DIR}/build/python)  # what scripts/setup.sh --cuda brings

set(reason "as asked for")
if(lockstep_cuda STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  find_package(CUDNN 9 QUIET COMPONENTS frontend)
  find_path(LOCKSTEP_NCCL_HEADER nccl.h)
  set(missing)
  foreach(what IN ITEMS CMAKE_CUDA_COMPILER:nvcc CUDNN_FOUND:cuDNN LOCKSTEP_NCCL_HEADER:NCCL)
    string(REGEX MATCH "^(.*):(.*)$" _ ${what})
    if(NOT ${CMAKE_MATCH_1})
      list(APPEND missing ${CMAKE_MATCH_2})
    endif()
  endforeach()
  if(NOT EXISTS /proc/driver/nvidia/version)
    list(APPEND missing "a driver")
  endif()
  if(missing)
    list(JOIN missing ", " missing)
    set(lockstep_cuda OFF)
    set(reason "not found: ${missing}")
  else()
    set(lockstep_cuda ON)
    set(reason "nvcc, cuDNN, NCCL and a driver were found")
  endif()
endif()
message(STATUS "LOCKSTEP_CUDA: ${lockstep_cuda} (${reason})")

add_library(lockstep_cuda_flags INTERFACE)  # for our own targets that use CUDA
if(lockstep_cuda STREQUAL "ON")
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES native)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  find_package(CUDNN 9 REQUIRED COMPONENTS frontend)
  # CMake 3.25 knows no CUDA20. Bits are promised, hence no contraction; constexpr functions of ours serve kernels too.
  target_compile_options(lockstep_cuda_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--fmad=false;--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra,-Wshadow>")
  if(CMAKE_COMPILE_WARNING_AS_ERROR)
    target_compile_options(lockstep_cuda_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
  target_include_directories(lockstep_cuda_flags SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
elseif(lockstep_cuda STREQUAL "EMULATED")
  if(LOCKSTEP_SANITIZE MATCHES "thread")
    message(FATAL_ERROR "LOCKSTEP_CUDA=EMULATED: expected no ThreadSanitizer, whose hooks the emulation needs for itself")
  endif()
  find_package(Boost REQUIRED COMPONENTS context)
  set(LOCKSTEP_KERNEL_OPTIONS "" CACHE STRING "Further compiler options of the emulated kernels alone")
  set(LOCKSTEP_INSTALL OFF)  # for tests only
endif()

# lockstep_kernel_sources(<target> <file>...): adds .cu files. Emulated ones get a call at each memory access, from the
# instrumentation that ThreadSanitizer uses; its library is not linked. Optimisations that join or split
# accesses are off. Counters of coverage, where asked for, are atomic, so that they are not taken for the kernel's own memory;
# the preset kernel-coverage keeps what would move or join branches before they are counted off as well.
function(lockstep_kernel_sources target)
  if(lockstep_cuda STREQUAL "OFF")
    return()
  endif()
  target_sources(${target} PRIVATE ${ARGN})
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:lockstep_cuda_flags>)
  if(lockstep_cuda STREQUAL "EMULATED")
    set_source_files_properties(${ARGN} TARGET_DIRECTORY ${target} PROPERTIES
      LANGUAGE CXX
      COMPILE_DEFINITIONS LOCKSTEP_EMULATED_KERNELS
      COMPILE_OPTIONS "-O2;-fno-tree-vectorize;-fno-tree-sra;-fno-store-merging;-fno-sanitize=all;-fsanitize=thread;-fprofile-update=atomic;--param=tsan-instrument-func-entry-exit=0;${LOCKSTEP_KERNEL_OPTIONS}")
  endif()
endfunction()
