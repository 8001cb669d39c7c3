// What the files of the op registry share: op_registry_<family>.cpp each register their ops.
#pragma once

#include <vector>

#include <lockstep/tests/support/check_op.h>

namespace lockstep::test {

using Scale = Tolerance::Scale;
using Inputs = std::vector<Tensor>;

inline constexpr Layout kRows = Layout::row_major;
inline constexpr Layout kLast = Layout::channels_last;
inline constexpr Tolerance kExact{Scale::element, 0, 0, "values are only moved"};

struct Form {
  Shape shape;
  Layout layout = kRows;
};

/// Scalar, odd, size 1, empty, several dimensions, images in both layouts, more than one vector register.
std::vector<Form> forms();

void register_elementwise_ops(std::vector<OpEntry>& registry);
void register_shape_ops(std::vector<OpEntry>& registry);
void register_reduction_ops(std::vector<OpEntry>& registry);
void register_nn_ops(std::vector<OpEntry>& registry);

}  // namespace lockstep::test
