# Finds libbacktrace and defines Libbacktrace::libbacktrace. Debian has no package for it: it comes with GCC, in GCC's own
# folders, where other compilers find the library but not the header.
find_library(Libbacktrace_LIBRARY backtrace PATHS ${CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES})
if(Libbacktrace_LIBRARY)
  cmake_path(GET Libbacktrace_LIBRARY PARENT_PATH folder)
endif()
find_path(Libbacktrace_INCLUDE_DIR backtrace.h HINTS ${folder}/include)
mark_as_advanced(Libbacktrace_LIBRARY Libbacktrace_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libbacktrace REQUIRED_VARS Libbacktrace_LIBRARY Libbacktrace_INCLUDE_DIR)

if(Libbacktrace_FOUND AND NOT TARGET Libbacktrace::libbacktrace)
  add_library(Libbacktrace::libbacktrace UNKNOWN IMPORTED)
  # Searched last, so that GCC's own headers stay hidden from other compilers.
  set_target_properties(Libbacktrace::libbacktrace PROPERTIES
    IMPORTED_LOCATION ${Libbacktrace_LIBRARY} INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${Libbacktrace_INCLUDE_DIR}>")
endif()
