// Whether this build has CUDA devices, and the names of CUDA things that headers may use without a CUDA header.
#pragma once

struct CUstream_st;

namespace lockstep {

/// True where the CUDA backend is compiled in: LOCKSTEP_CUDA=ON and EMULATED. There may still be no device.
#if defined(LOCKSTEP_BUILT_WITH_CUDA)
inline constexpr bool kBuiltWithCuda = true;
#else
inline constexpr bool kBuiltWithCuda = false;
#endif

/// What CUDA calls cudaStream_t.
using CudaStream = CUstream_st*;

}  // namespace lockstep

/// Marks an inline function that kernels call too. Emulated kernels are instrumented, so there their copies of such
/// functions get a name of their own: the linker must not take the copy of an ordinary source file instead.
#if defined(__CUDACC__)
#define LOCKSTEP_HOST_DEVICE __host__ __device__
#elif defined(LOCKSTEP_EMULATED_KERNELS)
#define LOCKSTEP_HOST_DEVICE [[gnu::abi_tag("kernel")]]
#else
#define LOCKSTEP_HOST_DEVICE
#endif
