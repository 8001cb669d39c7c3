"""The trainer and predict as a user runs them: what they print, what they save, how they refuse."""
import pathlib
import re
import subprocess
import sys
import tempfile

train, predict = sys.argv[1:]


def run(*command, status=0):
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == status, (command, result.returncode, result.stdout, result.stderr)
    return result.stdout if status == 0 else result.stderr


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    runs = {}
    for workers, seed in [("0", "3"), ("2", "3"), ("2", "4")]:
        weights = folder / f"{workers}-{seed}.safetensors"
        out = run(train, "--device", "cpu", "--epochs", "2", "--max-steps", "2", "--log-interval", "1", "--batch-size", "32",
                  "--workers", workers, "--seed", seed, "--save", weights)
        for line in ("[Epoch 1, Step 1] Loss: ", "[Epoch 2, Step 2] Loss: ", "[Epoch 2] Test accuracy: ", f"Saved {weights}"):
            assert line in out, (line, out)
        assert len(re.findall(r"^\[Epoch \d, Step \d\] Loss: \d\.\d{3}$", out, re.M)) == 4, out
        runs[workers, seed] = out.replace(str(weights), ""), weights.read_bytes()
    assert runs["0", "3"] == runs["2", "3"], "the number of workers changed a run"
    assert runs["2", "3"] != runs["2", "4"], "the seed did not change a run"

    # A step on CUDA, where the images stay on the device and come in the same order, is the CPU's.
    probe = subprocess.run([train, "--device", "cuda", "--epochs", "0", "--save", weights], capture_output=True)
    if probe.returncode == 0:
        losses = []
        for device in ("cpu", "cuda"):
            out = run(train, "--device", device, "--epochs", "1", "--max-steps", "1", "--log-interval", "1",
                      "--save", weights)
            losses += [float(loss) for loss in re.findall(r"^\[Epoch 1, Step 1\] Loss: (\d\.\d{3})$", out, re.M)]
            assert "[Epoch 1] Test accuracy: " in out, out
        assert len(losses) == 2 and abs(losses[0] - losses[1]) <= 0.002, losses
        print(f"losses of a step on the CPU and on CUDA: {losses}")
    else:
        print("steps skipped without a CUDA device: 1")

    lines = run(predict, "--device", "cpu", "--weights", weights, "--count", "3").splitlines()
    assert len(lines) == 3, lines
    for i, line in enumerate(lines):
        assert re.fullmatch(rf"image {i} \([^)]+\):( .+? \d+\.\d %,?){{5}}", line), line
        shares = [float(share) for share in re.findall(r"(\d+\.\d) %", line)]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.3, line

    # What cannot be done is refused with the reason, and nothing is left behind.
    assert str(folder / "nowhere") in run(train, "--data", folder / "nowhere", status=1)
    assert "missing.safetensors" in run(predict, "--weights", folder / "missing.safetensors", status=1)
    damaged = folder / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-1])
    assert "damaged.safetensors" in run(predict, "--weights", damaged, status=1)
    assert "lr" in run(train, "--lr", "-1", status=1)
    assert "--batch-size" in run(train, "--batch-size", "0", status=105)
    assert "cuda" in run(train, "--device", "cuda:9", status=1)
    assert sorted(p.name for p in folder.iterdir()) == sorted(["0-3.safetensors", "2-3.safetensors", "2-4.safetensors", damaged.name])
print("train_and_predict: passed")
