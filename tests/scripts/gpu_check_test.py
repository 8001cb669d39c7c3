"""scripts/gpu_check.sh: on this build without a GPU, from a pack of it, and on programs that behave as on a machine with one.

usage: gpu_check_test.py <gpu_check.sh> <build folder>
"""
import os
import pathlib
import shutil
import subprocess
import sys

script, build = map(pathlib.Path, sys.argv[1:])
work = pathlib.Path.cwd() / "gpu_check_test"
shutil.rmtree(work, ignore_errors=True)
(work / "bin").mkdir(parents=True)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def expect(condition, what):
    if not condition:
        sys.exit(f"gpu_check: expected {what}")


def check(*arguments, status, command=script):
    """Runs it, whatever this machine has: the first folder of PATH is ours. Returns the summary."""
    environment = {**os.environ, "PATH": f"{work / 'bin'}:{os.environ['PATH']}", "PYTHONNOUSERSITE": "1"}
    done = subprocess.run([command, "--out", work / "out", *arguments], env=environment, text=True, capture_output=True)
    print(done.stdout, done.stderr, sep="", flush=True)
    expect(done.returncode == status, f"status {status} of {arguments}, got {done.returncode}")
    return (work / "out/summary.md").read_text()


def result(step):
    return (work / f"out/{step}.result").read_text()


# Without a GPU all is skipped, and the summary says so; from a pack, which carries its libraries, as well.
write(work / "bin/nvidia-smi", "exit 9\n")
summary = check(build, status=0)
expect("none: what needs one is skipped" in summary and "failed: 0" in summary and "left: 0" in summary, summary)
for step in ("train.lockstep", "train.pytorch", "benchmarks.ops", "benchmarks.train_step_32"):
    expect(result(step) == "skip: no GPU here\n", f"{step} to be skipped, got {result(step)}")
expect(any(line.startswith("| memcheck.") and "no GPU here" in line for line in summary.splitlines()), "memcheck")
pack = work / "pack"
subprocess.run([script, "--pack", pack, build], check=True)
expect("failed: 0" in check(status=0, command=pack / "scripts/gpu_check.sh"), "a pack that runs")
packed = pack / "build/cuda"
subprocess.run([packed / "examples/train_resnet18_cifar10", "--help"], check=True, stdout=subprocess.DEVNULL,
               env={"LD_LIBRARY_PATH": str(packed / "lib")})
expect(list((packed / "lib").glob("libdnnl.so*")), "oneDNN in the pack")
shutil.rmtree(work / "out")
shutil.rmtree(pack)

# On a machine with one. Every program notes its calls.
calls = work / "calls"
fake = work / "fake"
note = f'echo "$(basename "$0") $*" >> {calls}\n'
write(work / "bin/nvidia-smi", "echo 'Tesla T0, 1.0, 1 MiB'\n")
write(work / "bin/compute-sanitizer", note + "echo '== ERROR SUMMARY: 3 errors'\n[ $2 != racecheck ] || exit 86\n")
write(fake / "tests/lockstep_cuda_tests",
      'case "$*" in *--list-tags*) echo "  1  [#sgd_test]"; echo "  1  [#library_test]"; exit;; esac\n' + note +
      'case "$*" in *library*) echo "test cases: 2 | 1 failed"; exit 1;; esac\necho "All tests passed (4 assertions)"\n')
write(fake / "tests/lockstep_kernels_tests", note + "echo 'cases skipped without a CUDA device: 1'\n")
write(fake / "examples/train_resnet18_cifar10", note + f"[ ! -e {work}/slow ] || sleep 60\n" +
      "".join(f"echo '[Epoch 1, Step {step}] Loss: 1.5'; sleep 0.1\n" for step in (50, 100)))
write(fake / "benchmarks/ops", note)


def called():
    lines = calls.read_text().splitlines()
    calls.unlink()
    return [line.split()[0] for line in lines]


expect("left: " in check("--seconds", "0", fake, status=2) and not calls.exists(), "nothing to run in no time")
(work / "slow").touch()
check("--seconds", "2", "--part", "train.lockstep", fake, status=2)
expect(called() == ["train_resnet18_cifar10"] and not (work / "out/train.lockstep.result").exists(), "a step left to run")
(work / "slow").unlink()
summary = check(fake, status=1)
expect("Tesla T0" in summary and "failed: 3" in summary and "left: 0" in summary, summary)
expect("Step 100] Loss: 1.5" in summary and "beside , ratio unknown" in summary, "the losses in the summary")
for step, start, what in (("tests.sgd_test", "pass", "All tests passed"), ("tests.library_test", "fail", "1 failed"),
                          ("tests.lockstep_kernels_tests", "fail: it sees no CUDA device", ""),
                          ("memcheck.sgd_test", "pass", "3 errors"), ("racecheck.sgd_test", "fail: status 86", "3 errors"),
                          ("train.lockstep", "pass", "")):
    expect(result(step).startswith(start) and what in result(step), f"{start} of {step}, got {result(step)}")
expect(sorted(called()) == ["compute-sanitizer"] * 4 + ["lockstep_cuda_tests"] * 2 + ["lockstep_kernels_tests", "ops",
                                                                                      "train_resnet18_cifar10"],
       "each program to run once for each step")
check(fake, status=1)
expect(not calls.exists(), "nothing to run a second time")
(work / "out/racecheck.sgd_test.result").unlink()
check("--part", "racecheck", fake, status=1)
expect(called() == ["compute-sanitizer"], "only what lacks its result to run again")
print("gpu_check: as expected")
