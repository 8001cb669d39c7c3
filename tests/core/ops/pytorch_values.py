"""Writes pytorch_values.h: results and gradients of PyTorch in float64 on inputs that the tests make again.

    python3 pytorch_values.py > pytorch_values.h
"""
import math

import torch
import torch.nn.functional as F


def wave(phase, *shape):
    """2 sin(0.7 i + phase) for element i, as `wave` of pytorch_test.cpp."""
    n = math.prod(shape)
    values = [2.0 * math.sin(0.7 * i + phase) for i in range(n)]
    return torch.tensor(values, dtype=torch.float64).reshape(shape).requires_grad_()


def emit(name, tensor):
    values = ", ".join(repr(v) for v in tensor.detach().reshape(-1).tolist())
    print(f"inline const std::vector<double> {name} = {{{values}}};")


def emit_all(name, y, **inputs):
    """The result, and the gradient of Σ wave(0.5) · y for each input."""
    emit(name, y)
    (wave(0.5, *y.shape).detach() * y).sum().backward()
    for which, x in inputs.items():
        emit(f"{name}_grad_{which}", x.grad)


print(f"// Made by pytorch_values.py with PyTorch {torch.__version__.split('+')[0]}.")
print("#pragma once\n\n#include <vector>\n\n// clang-format off\nnamespace lockstep::test::pytorch {\n")

x, w, b = wave(0.0, 2, 4, 5, 4), wave(1.0, 6, 2, 3, 2), wave(2.0, 6)
emit_all("conv2d", F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), x=x, w=w, b=b)

for ceil in (False, True):
    x = wave(0.1, 1, 2, 6, 5)
    emit_all(f"max_pool2d_{'ceil' if ceil else 'floor'}",
             F.max_pool2d(x, (3, 2), (2, 2), (1, 1), (1, 2), ceil_mode=ceil), x=x)
    for include in (False, True):
        x = wave(0.2, 1, 2, 6, 5)
        emit_all(f"avg_pool2d_{'ceil' if ceil else 'floor'}_{'with' if include else 'without'}_pad",
                 F.avg_pool2d(x, (3, 2), (2, 3), (1, 1), ceil_mode=ceil, count_include_pad=include), x=x)
x = wave(0.3, 1, 2, 5, 7)
emit_all("adaptive_avg_pool2d", F.adaptive_avg_pool2d(x, (3, 4)), x=x)

x, w, b = wave(0.4, 2, 3, 2, 2), wave(1.4, 3), wave(2.4, 3)
mean, var = wave(3.4, 3).detach(), (wave(4.4, 3).detach() + 2.5)
emit_all("batch_norm_eval", F.batch_norm(x, mean, var, w, b, False, 0.3, 1e-3), x=x, w=w, b=b)
x, w, b = wave(0.4, 2, 3, 2, 2), wave(1.4, 3), wave(2.4, 3)
emit_all("batch_norm_train", F.batch_norm(x, mean, var, w, b, True, 0.3, 1e-3), x=x, w=w, b=b)
emit("batch_norm_running_mean", mean)
emit("batch_norm_running_var", var)
x, w, b, r = wave(0.4, 2, 3, 2, 2), wave(1.4, 3), wave(2.4, 3), wave(5.4, 2, 3, 2, 2)
emit_all("batch_norm_relu", F.relu(F.batch_norm(x, None, None, w, b, True, 0.1, 1e-5) + r), x=x, w=w, b=b, r=r)

for dim in (0, 1, 2):
    x = wave(0.6, 2, 3, 4)
    emit_all(f"softmax_{dim}", F.softmax(x, dim), x=x)
    x = wave(0.6, 2, 3, 4)
    emit_all(f"log_softmax_{dim}", F.log_softmax(x, dim), x=x)

target = torch.tensor([1, 3, 0, 3])
for reduction in ("none", "mean", "sum"):
    for smoothing in (0.0, 0.2):
        tag = f"{reduction}_{'smooth' if smoothing else 'plain'}"
        x = wave(0.7, 4, 4)
        emit_all(f"cross_entropy_{tag}",
                 F.cross_entropy(x, target, ignore_index=3, reduction=reduction, label_smoothing=smoothing), x=x)
        x = wave(0.7, 4, 4)
        emit_all(f"cross_entropy_probabilities_{tag}",
                 F.cross_entropy(x, wave(0.8, 4, 4).detach().abs(), reduction=reduction, label_smoothing=smoothing), x=x)

a, b = wave(0.9, 2, 3, 4), wave(1.9, 2, 4, 2)
emit_all("matmul", torch.bmm(a, b), a=a, b=b)
x, w, b = wave(0.9, 2, 2, 3), wave(1.9, 4, 3), wave(2.9, 4)
emit_all("linear", F.linear(x, w, b), x=x, w=w, b=b)
x = wave(0.35, 3, 4)
emit_all("functions", x.exp() + (x * x + 1).log() + (x * x + 0.5).sqrt() + x.relu() + x.sigmoid() + x.tanh() - x / 3, x=x)
a, b = wave(0.45, 2, 3, 1), wave(1.45, 3, 4)
emit_all("broadcast", a * b - a / (b + 3) + b, a=a, b=b)

print("\n}  // namespace lockstep::test::pytorch\n// clang-format on")
