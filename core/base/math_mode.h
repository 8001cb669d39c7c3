// What the libraries behind convolutions and matrix products may do for speed, in the whole process. They are asked
// each time, so a change applies to the ops that start after it. No effect on the CPU.
#pragma once

namespace lockstep {

/// Lets float32 convolutions and products on CUDA round their inputs to TF32 (10 fraction bits of 23), several times
/// faster on tensor cores (torch.backends.cuda.matmul.allow_tf32). At first false.
void allow_tf32(bool allow);
bool is_tf32_allowed();  ///< what allow_tf32 was told last

/// Lets only algorithms be chosen that give the same bits in each run on the same device model and library version
/// (torch.use_deterministic_algorithms). At first true; our own kernels are so anyway.
void deterministic(bool on);
bool is_deterministic();  ///< what deterministic was told last

/// Lets the first use of each size of a convolution on CUDA time the algorithms that cuDNN puts first and keep the
/// fastest for as long as the process lives (torch.backends.cudnn.benchmark); else cuDNN's guess is taken. At first
/// false. Which is fastest may differ from run to run, and with it the bits, also among the algorithms that
/// deterministic(true) allows.
void cudnn_benchmark(bool on);
bool is_cudnn_benchmark();  ///< what cudnn_benchmark was told last

}  // namespace lockstep
