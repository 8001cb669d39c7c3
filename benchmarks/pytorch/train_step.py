"""PyTorch twin of benchmarks/train_step.cpp: training steps of ResNet-18 on one random batch, one JSON line per step.

With --interactive each step waits for a line on standard input, so that compare.py can let programs take turns.
"""
import argparse
import json
import sys
import time

import torch
import torchvision


def peak_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--channels-last", action="store_true", help="the faster memory format on most machines")
    parser.add_argument("--interactive", action="store_true", help="one step for each line on standard input")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # as Lockstep
    dtype = getattr(torch, args.dtype)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    model = torchvision.models.resnet18(num_classes=args.classes)
    model = model.to(device=args.device, dtype=dtype, memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(args.batch, 3, args.size, args.size, dtype=dtype)
    images = images.to(device=args.device, memory_format=memory_format)
    labels = torch.randint(args.classes, (args.batch,)).to(args.device)

    def clock():
        """Once the device has done what was asked of it."""
        if args.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step():
        start = clock()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        forward = clock()
        loss.backward()
        backward = clock()
        optimizer.step()
        end = clock()
        line = {"loss": loss.item(), "forward_ms": (forward - start) * 1e3, "backward_ms": (backward - forward) * 1e3,
                "optimizer_ms": (end - backward) * 1e3, "total_ms": (end - start) * 1e3, "peak_mb": peak_mb()}
        print(json.dumps(line), flush=True)

    for _ in sys.stdin if args.interactive else range(args.steps):
        step()


main()
