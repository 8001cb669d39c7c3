#include <lockstep/core/tensor.h>

extern "C" double lockstep_plugin_answer() { return lockstep::Tensor::full({1}, 42.0).item(); }
