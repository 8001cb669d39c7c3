"""PyTorch twin, from Python, of benchmarks/host_cost.cpp; prints the same JSON line. The twin in C++ is beside it."""
import argparse
import json
import time

import torch

OPS = 1000


def memory_mb(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) / 1024


def chain(x, bias):
    for _ in range(OPS // 2):
        x = torch.relu(torch.add(x, bias))
    return x


def summary(values):
    values = sorted(values)
    return {"min": values[0], "median": values[len(values) // 2]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--forwards", type=int, default=10_000)
    args = parser.parse_args()

    torch.set_num_threads(1)
    x = torch.rand(16, requires_grad=True)
    bias, ones = torch.rand(16), torch.ones(16)
    forward_ns, backward_ns = [], []
    for index in range(-(args.rounds // 10), args.rounds):  # the first ones warm up
        x.grad = None
        start = time.perf_counter()
        y = chain(x, bias)
        forward = time.perf_counter()
        y.backward(ones)
        end = time.perf_counter()
        if index >= 0:
            forward_ns.append((forward - start) * 1e9 / OPS)
            backward_ns.append((end - forward) * 1e9 / OPS)

    before = memory_mb("VmRSS")
    for _ in range(args.forwards):
        chain(x, bias)
    print(json.dumps({"forward_ns_per_op": summary(forward_ns), "backward_ns_per_op": summary(backward_ns),
                      "recorded_forwards": args.forwards, "rss_growth_mb": memory_mb("VmRSS") - before,
                      "peak_mb": memory_mb("VmHWM")}))


main()
