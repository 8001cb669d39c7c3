"""The parallel trainers as a user runs them: the same bits for any number of ranks, of threads and of processes alike."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

train_data_parallel, train_ddp, mpirun = sys.argv[1:]
MPIRUN = [mpirun, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def run(*command, status=0):
    environment = dict(os.environ)
    if command[0] == mpirun:  # Open MPI's own start leaks
        environment["ASAN_OPTIONS"] = environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == status, (command, result.returncode, result.stdout, result.stderr)
    return result.stdout if status == 0 else result.stderr


def ddp(*arguments, processes=0):
    """Hash of the weights, and the lines of the ranks."""
    launcher = MPIRUN + ["-np", str(processes)] if processes else []
    out = run(*launcher, train_ddp, "--width", "8", "--epochs", "1", "--max-steps", "6", "--log-interval", "2", "--batch-size",
              "30", "--device", "cpu", *arguments)
    assert len(re.findall(r"^\[Epoch 1, Step \d\] Loss: \d\.\d{3}$", out, re.M)) == 3, out
    assert re.search(r"^\[Epoch 1\] Test accuracy: \d+\.\d\d %$", out, re.M), out
    ranks = re.findall(r"^rank (\d+) of (\d+) \(cpu\): replicas (\d+) to (\d+) of \d+, 6 steps, ([\d.]+) MB sent", out, re.M)
    return re.search(r"SHA-256 of the weights: ([0-9a-f]{64})", out)[1], ranks, out


reference, ranks, _ = ddp("--replicas", "6", "--ranks", "1")
assert ranks == [("0", "1", "0", "5", "0.0")], ranks
for count, workers in [(2, 0), (4, 3)]:
    weights, ranks, _ = ddp("--replicas", "6", "--ranks", str(count), "--workers", str(workers))
    assert weights == reference, count
    assert len(ranks) == count and ranks[-1][3] == "5" and all(float(rank[4]) > 0 for rank in ranks), ranks
if mpirun:
    for processes in (2, 3):
        weights, ranks, out = ddp("--replicas", "6", processes=processes)
        assert weights == reference, processes
        assert len(ranks) == processes and "by Open MPI" in out, out

# The comparison can fail: another order of the additions, another number of replicas.
assert ddp("--replicas", "6", "--ranks", "2", "--fast")[0] != reference
assert ddp("--replicas", "5", "--ranks", "1")[0] != reference
assert ddp("--replicas", "6", "--ranks", "2", "--no-overlap")[0] == reference

out = run(train_data_parallel, "--steps", "2", "--batch-size", "8", "--device", "cpu")
assert "The 4 replicas gave the same bits" in out, out
assert "replicas" in run(train_ddp, "--replicas", "1", "--ranks", "2", status=1)
with tempfile.TemporaryDirectory() as folder:
    assert "nowhere" in run(train_ddp, "--data", pathlib.Path(folder) / "nowhere", status=1)
print("train_in_parallel: passed")
