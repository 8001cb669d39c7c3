#!/usr/bin/env python3
"""Lockstep beside PyTorch on this machine: tables in Markdown.

  benchmarks/compare.py build/release/benchmarks --python /usr/bin/python3 --python newest/bin/python \\
      --libtorch build/release/benchmarks/host_cost_libtorch

All contestants of a table are alive at once and take turns step by step, so that what the machine does hits them alike.
PyTorch runs in both memory formats, and the faster one is what Lockstep is compared with. For a fair PyTorch on Debian
install libopenblas0-openmp: the BLAS that python3-torch otherwise gets slows it down. Leave the machine alone meanwhile.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

TWINS = pathlib.Path(__file__).resolve().parent / "pytorch"
# Settings that the user may have for other programs; threads are set by option.
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if not name.startswith(("OMP_", "MKL_", "KMP_", "GOMP_"))}
PAUSE = 0.03  # seconds after a turn, until the threads of the one before have stopped spinning


class Child:
    """A benchmark program that takes a step for each line it is sent."""

    def __init__(self, name, command, options):
        self.name = name
        self.steps = []
        self.process = subprocess.Popen([*command, *options, "--interactive"], env=ENVIRONMENT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def step(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"compare: {self.name} has ended with {self.process.wait()}")
        self.steps.append(json.loads(line))
        time.sleep(PAUSE)

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def column(self, key):
        return [step[key] for step in self.steps]

    def median(self, key="total_ms"):
        return statistics.median(self.column(key))


def print_table(title, header, rows):
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_ratios(ours, medians_by_version, unit, digits):
    for version, medians in medians_by_version.items():
        best = min(medians)
        print(f"Lockstep takes {ours / best:.2f} of the time of {version}: "
              f"{ours:.{digits}f} {unit} against {best:.{digits}f}.")


def compare_steps(lockstep, torches, size, batch, args):
    options = ["--size", str(size), "--batch", str(batch), "--threads", str(args.threads), "--device", args.device]
    children = [Child("Lockstep", [lockstep / "train_step"], options)]
    versions = {}
    for version, python in torches.items():
        twins = [Child(f"{version}, {layout}", [python, TWINS / "train_step.py"], options + extra)
                 for layout, extra in (("contiguous", []), ("channels_last", ["--channels-last"]))]
        versions[version] = twins
        children += twins

    for index in range(args.warmup + args.steps):
        turn = index % len(children)
        for child in children[turn:] + children[:turn]:
            child.step()
    for child in children:
        child.steps = child.steps[args.warmup:]
        child.close()

    def row(child):
        low, middle, high = statistics.quantiles(child.column("total_ms"), n=4)
        return [child.name, f"**{middle:.1f}**", f"{min(child.column('total_ms')):.1f}", f"{low:.1f} – {high:.1f}",
                *(f"{child.median(part):.1f}" for part in ("forward_ms", "backward_ms", "optimizer_ms")),
                f"{child.steps[-1]['peak_mb']:.0f}"]

    where = f"{args.threads} threads" if args.device == "cpu" else args.device
    title = f"ResNet-18, {size}×{size}, batch {batch}, float32, {where}: ms per step, {args.steps} steps"
    header = ["", "median", "min", "quartiles", "forward", "backward", "optimizer", "peak MiB"]
    print_table(title, header, map(row, children))
    medians = {version: [twin.median() for twin in twins] for version, twins in versions.items()}
    print_ratios(children[0].median(), medians, "ms", 1)


def seconds_to_first_step(command):
    start = time.perf_counter()
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    if not process.stdout.readline():
        raise SystemExit(f"compare: {command[0]} has printed nothing")
    seconds = time.perf_counter() - start
    process.communicate()
    return seconds


def compare_starts(lockstep, torches, args):
    options = ["--size", "32", "--batch", "128", "--threads", str(args.threads), "--device", args.device,
               "--steps", "1"]
    commands = {"Lockstep": [lockstep / "train_step", *options]}
    commands.update({version: [python, TWINS / "train_step.py", *options] for version, python in torches.items()})
    seconds = {name: [] for name in commands}
    for index in range(args.starts + 1):
        for name, command in commands.items():
            value = seconds_to_first_step(command)
            if index:  # the first one warms the page cache
                seconds[name].append(value)
    print_table(f"Start of the process to the end of the first step, 32×32, batch 128: seconds, {args.starts} starts",
                ["", "median", "min"],
                ([name, f"**{statistics.median(values):.2f}**", f"{min(values):.2f}"]
                 for name, values in seconds.items()))
    print_ratios(statistics.median(seconds["Lockstep"]),
                 {version: [statistics.median(seconds[version])] for version in torches}, "s", 2)


def compare_host_cost(lockstep, torches, args):
    commands = {"Lockstep": [lockstep / "host_cost"]}
    if args.libtorch:
        commands["LibTorch, C++"] = [args.libtorch]
    commands.update({f"{version}, Python": [python, TWINS / "host_cost.py"] for version, python in torches.items()})
    results = {name: [] for name in commands}
    for _ in range(3):
        for name, command in commands.items():
            output = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout
            results[name].append(json.loads(output))

    def row(name, runs):
        def cell(part):
            median = statistics.median(run[part]["median"] for run in runs)
            return f"**{median:.0f}** (min {min(run[part]['min'] for run in runs):.0f})"

        growth = max(run["rss_growth_mb"] for run in runs)
        return [name, cell("forward_ns_per_op"), cell("backward_ns_per_op"), f"{growth:.1f}"]

    print_table("A chain of 1,000 adds and relus on 16 elements: ns per op",
                ["", "forward, recording", "backward", "growth over 10,000 forwards without a backward, MiB"],
                (row(name, runs) for name, runs in results.items()))


def describe_machine():
    """The processor, and how much of it others use: it must be little, since OpenMP programs suffer from it greatly."""
    def jiffies():
        with open("/proc/stat") as file:
            values = [int(value) for value in file.readline().split()[1:]]
        return sum(values), values[3] + values[4]  # all; idle and waiting for disks

    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    total, idle = jiffies()
    time.sleep(2)
    total_later, idle_later = jiffies()
    busy = 1 - (idle_later - idle) / (total_later - total)
    warning = " **Too busy to compare.**" if busy > 0.1 else ""
    model = models[0] if models else "unknown processor"
    return f"{model}, {os.cpu_count()} processors, {busy:.0%} busy with other work.{warning}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lockstep", type=pathlib.Path, help="the folder with the built benchmarks")
    parser.add_argument("--python", action="append", default=[],
                        help="an interpreter that has torch and torchvision; may be repeated")
    parser.add_argument("--libtorch", help="host_cost built with LibTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N, of training steps and starts")
    parser.add_argument("--steps", type=int, default=30, help="counted steps of each contestant")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--only", choices=("32", "224", "start", "host"), action="append")
    args = parser.parse_args()

    torches = {}
    for python in args.python or ["/usr/bin/python3"]:
        version = subprocess.check_output([python, "-c", "import torch; print(torch.__version__)"], text=True).strip()
        torches[f"PyTorch {version}"] = python
    parts = args.only or ("32", "224", "start", "host")
    print("Before:", describe_machine())
    if "32" in parts:
        compare_steps(args.lockstep, torches, 32, 128, args)
    if "224" in parts:
        compare_steps(args.lockstep, torches, 224, 16, args)
    if "start" in parts:
        compare_starts(args.lockstep, torches, args)
    if "host" in parts:
        compare_host_cost(args.lockstep, torches, args)
    print("\nAfter:", describe_machine())


main()
