// LOCKSTEP_INLINE marks what must be inlined into hot loops; LOCKSTEP_HOST_DEVICE_INLINE what kernels of the CPU and of
// CUDA share, so that both compute the same bits.
#pragma once

#include <lockstep/core/base/cuda.h>

#define LOCKSTEP_INLINE inline __attribute__((always_inline))
#define LOCKSTEP_HOST_DEVICE_INLINE LOCKSTEP_HOST_DEVICE LOCKSTEP_INLINE
