#!/usr/bin/env python3
"""Registers, spilled bytes and stack of every CUDA kernel, as a table in Markdown: per architecture the most of all instances
of a kernel. Compiles the device code of the library's .cu files again, the way a configured build folder does, and reads what
ptxas says. Needs nvcc, no GPU; minutes.

  cmake --preset cuda-release && scripts/registers.py build/cuda-release
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile


def ptxas_output(entry):
    command = shlex.split(entry["command"])
    command = [part for part in command if part != "-c"]
    with tempfile.TemporaryDirectory() as folder:
        command[command.index("-o") + 1] = f"{folder}/device.fatbin"
        done = subprocess.run([*command, "-fatbin", "-Xptxas=-v"], cwd=entry["directory"], text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"registers: {' '.join(command)} says\n{done.stderr}")
    return done.stderr + done.stdout


def kernels(text):
    """(mangled name, architecture, registers, spilled bytes, stack bytes) of each instance."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers", re.S)
    for found in pattern.finditer(text):
        yield (found["name"], found["arch"], int(found["registers"]), int(found["stores"]) + int(found["loads"]),
               int(found["stack"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="a build folder configured with LOCKSTEP_CUDA=ON")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    entries = [entry for entry in json.loads((args.build / "compile_commands.json").read_text())
               if re.search(r"/kernels/cuda/\w+\.cu$", entry["file"])]
    if not entries:
        sys.exit(f"registers: no .cu files in {args.build}/compile_commands.json")
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        found = [kernel for text in pool.map(ptxas_output, entries) for kernel in kernels(text)]
    names = subprocess.run(["c++filt"], input="\n".join(kernel[0] for kernel in found), text=True, check=True,
                           stdout=subprocess.PIPE).stdout.splitlines()

    most = collections.defaultdict(lambda: [0, 0, 0, 0])  # instances, registers, spilled, stack
    for demangled, (_, arch, *numbers) in zip(names, found):
        # The last name before the first bracket of a template or of the parameters.
        kernel = re.search(r"(\w+)[<(]", demangled.replace("(anonymous namespace)", "")).group(1)
        cell = most[kernel, arch]
        cell[:] = [cell[0] + 1] + [max(pair) for pair in zip(cell[1:], numbers)]

    archs = sorted({arch for _, arch in most}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    print("| kernel | instances |" + "".join(f" {arch}: registers | spilled | stack |" for arch in archs))
    print("|---|---:|" + "---:|" * 3 * len(archs))
    for kernel in sorted({name for name, _ in most}):
        cells = [most[kernel, arch] for arch in archs]
        print(f"| {kernel} | {max(cell[0] for cell in cells)} |" +
              "".join(f" {cell[1]} | {cell[2]} | {cell[3]} |" for cell in cells))
    spilling = sorted({f"{kernel} ({arch})" for (kernel, arch), cell in most.items() if cell[2] > 0})
    print(f"\nkernels: {len({name for name, _ in most})}, instances on {len(archs)} architectures: {len(found)}, "
          f"that spill: {', '.join(spilling) or 'none'}")


main()
