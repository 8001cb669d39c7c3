# Compiler flags of our own code, gathered in the interface target `lockstep_flags`; flags that all code must share.

set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_EXTENSIONS OFF)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

# Warnings are errors in the release preset (CMAKE_COMPILE_WARNING_AS_ERROR), not for whoever builds with another compiler.
add_library(lockstep_flags INTERFACE)
target_compile_features(lockstep_flags INTERFACE cxx_std_20)
# Bits are promised: no contraction to fused multiply-add that one compiler does and another does not. The last two only drop
# errno and trap side effects, which lets loops vectorise.
set(flags -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    -ffp-contract=off -fno-math-errno -fno-trapping-math)
target_compile_options(lockstep_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${flags}>" $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O3>)

if(LOCKSTEP_SANITIZE)
  add_compile_options(-fsanitize=${LOCKSTEP_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
  add_link_options(-fsanitize=${LOCKSTEP_SANITIZE})
  target_compile_options(lockstep_flags INTERFACE -Wno-maybe-uninitialized)  # GCC sees ghosts in instrumented code
endif()

find_program(LOCKSTEP_CCACHE ccache)
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LOCKSTEP_CCACHE})
endif()
