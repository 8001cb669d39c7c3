# Finds what convolutions and matrix products run on beside the CUDA toolkit, in system folders, and in the Python packages
# nvidia-cudnn-*, nvidia-cublas-* and nvidia-cudnn-frontend, which hold only libraries with a version in their names.
#   CUDNN::cudnn      cuDNN 9, and NVRTC, which newer versions of the headers below call
#   CUDNN::cublasLt   cuBLASLt
#   CUDNN::frontend   the headers of cuDNN's graph API (cudnn_frontend.h), needed to build only
# CUDNN_PYTHON_PACKAGES names the folders to look for Python packages in; by default those of python3.
if(NOT DEFINED CUDNN_PYTHON_PACKAGES)
  find_program(CUDNN_PYTHON python3)
  mark_as_advanced(CUDNN_PYTHON)
  set(folders)
  if(CUDNN_PYTHON)
    execute_process(
      COMMAND ${CUDNN_PYTHON} -c "import sys; print(';'.join(p for p in sys.path if p.endswith('-packages')))"
      OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(CUDNN_PYTHON_PACKAGES ${folders} CACHE STRING "Folders of Python packages to look for cuDNN in")
endif()

set(include_hints)
set(library_hints)
foreach(folder IN LISTS CUDNN_PYTHON_PACKAGES)
  file(GLOB found ${folder}/nvidia/cudnn ${folder}/nvidia/cublas ${folder}/nvidia/cuda_nvrtc ${folder}/nvidia/cu[0-9]*)
  foreach(package IN LISTS found)
    list(APPEND include_hints ${package}/include)
    list(APPEND library_hints ${package}/lib)
  endforeach()
  list(APPEND include_hints ${folder}/include)
endforeach()
find_package(CUDAToolkit QUIET)
list(APPEND include_hints ${CUDAToolkit_INCLUDE_DIRS})
list(APPEND library_hints ${CUDAToolkit_LIBRARY_DIR})

find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${include_hints})
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${library_hints})
find_path(CUDNN_CUBLASLT_INCLUDE_DIR cublasLt.h HINTS ${include_hints})
find_library(CUDNN_CUBLASLT_LIBRARY NAMES cublasLt libcublasLt.so.${CUDAToolkit_VERSION_MAJOR} HINTS ${library_hints})
find_library(CUDNN_NVRTC_LIBRARY NAMES nvrtc libnvrtc.so.${CUDAToolkit_VERSION_MAJOR} HINTS ${library_hints})
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${include_hints})
mark_as_advanced(CUDNN_INCLUDE_DIR CUDNN_LIBRARY CUDNN_CUBLASLT_INCLUDE_DIR CUDNN_CUBLASLT_LIBRARY
                 CUDNN_NVRTC_LIBRARY CUDNN_FRONTEND_INCLUDE_DIR)

if(CUDNN_INCLUDE_DIR)
  file(STRINGS ${CUDNN_INCLUDE_DIR}/cudnn_version.h lines REGEX "define CUDNN_(MAJOR|MINOR|PATCHLEVEL) ")
  string(REGEX MATCHALL " [0-9]+" numbers "${lines}")
  string(REPLACE " " "" numbers "${numbers}")
  list(JOIN numbers "." CUDNN_VERSION)
endif()
if(CUDNN_FRONTEND_INCLUDE_DIR)
  set(CUDNN_frontend_FOUND TRUE)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CUDNN
  REQUIRED_VARS CUDNN_LIBRARY CUDNN_INCLUDE_DIR CUDNN_CUBLASLT_LIBRARY CUDNN_CUBLASLT_INCLUDE_DIR CUDNN_NVRTC_LIBRARY
  VERSION_VAR CUDNN_VERSION HANDLE_COMPONENTS
  REASON_FAILURE_MESSAGE "the component frontend is the Python package nvidia-cudnn-frontend")

if(CUDNN_FOUND AND NOT TARGET CUDNN::cudnn)
  add_library(CUDNN::cudnn UNKNOWN IMPORTED)
  set_target_properties(CUDNN::cudnn PROPERTIES
    IMPORTED_LOCATION ${CUDNN_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_INCLUDE_DIR}
    INTERFACE_LINK_LIBRARIES ${CUDNN_NVRTC_LIBRARY})
  add_library(CUDNN::cublasLt UNKNOWN IMPORTED)
  set_target_properties(CUDNN::cublasLt PROPERTIES
    IMPORTED_LOCATION ${CUDNN_CUBLASLT_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_CUBLASLT_INCLUDE_DIR})
  if(CUDNN_frontend_FOUND)
    add_library(CUDNN::frontend INTERFACE IMPORTED)
    set_target_properties(CUDNN::frontend PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_FRONTEND_INCLUDE_DIR})
  endif()
endif()
