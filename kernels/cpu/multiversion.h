// LOCKSTEP_MULTIVERSION compiles a function for several instruction sets; the loader picks the best one that the
// processor has. Put it on functions that contain a hot loop; what they call in that loop must be inlined
// (LOCKSTEP_INLINE).
#pragma once

#include <lockstep/kernels/common/inline.h>

// The sanitizers' run-time is not ready yet when the loader resolves such a function.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define LOCKSTEP_MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define LOCKSTEP_MULTIVERSION
#endif
