#!/usr/bin/env python3
"""Computes with PyTorch what tests/pytorch compares Lockstep with: ResNet-18, 10 classes, SGD of lr 0.01, momentum 0.9.

  narrow_resnet18.json
      a ResNet-18 of width 8 with weights by formula: 20 losses in float64, fingerprints of the first gradient and of the
      last weights, and the error of PyTorch's float32 gradient; this file is committed
  trajectory_float64.safetensors
      the real ResNet-18: its first weights, 20 batches of 16, 20 losses in float64
  gradients_<n>.safetensors
      after n = 0, 10, 30, 70 float32 steps on batches of 128: weights, a batch of 32, the loss in float32 and float64,
      the float64 gradient, and how far from that PyTorch's float32 gradient is

Needs Debian's python3-torch and python3-torchvision, or newer ones; 600 MB of disk; a minute or two. Exits with 77 where
there is no PyTorch. To renew the committed file:  scripts/make_fixtures.py tests/pytorch/data --only narrow
"""
import argparse
import json
import math
import os
import pathlib
import struct
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads are slow on a machine with other work

try:
    import numpy as np
    import torch
    import torchvision
except ImportError as error:
    print(f"make_fixtures: skipped, {error}")
    sys.exit(77)

STEPS = 20
SAFETENSORS_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}


def save_safetensors(path, tensors):
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    header, offset = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": SAFETENSORS_DTYPES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())


# ---- Numbers by formula, which pytorch_parity_test.cpp repeats bit for bit.

def hash_bits(seed, count):
    """The 64 bits of SplitMix64 at seed * 2^32, seed * 2^32 + 1, …"""
    z = (np.uint64(seed << 32) + np.arange(count, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_uniform(seed, *shape):
    """float32 in [-1, 1)."""
    bits = hash_bits(seed, math.prod(shape)) >> np.uint64(40)
    return (bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)).reshape(shape)


def fill_by_formula(model):
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            values = hash_uniform(index + 1, *parameter.shape)
            if values.ndim > 1:  # a convolution or the linear layer
                values *= np.float32(math.sqrt(6 / math.prod(values.shape[1:])))
            else:  # of a batch norm, or a bias
                values = np.float32(0.25) * values + np.float32(1)
            parameter.copy_(torch.from_numpy(values))


def batch_by_formula(index, size):
    images = hash_uniform(1000 + index, size, 3, 32, 32)
    labels = (hash_bits(2000 + index, size) % np.uint64(10)).astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels)


def fingerprint(tensor):
    """Norm, and the dot product with a vector by formula, which sees what moves around."""
    values = tensor.detach().double().numpy().ravel()
    return [float(np.linalg.norm(values)), float(values @ hash_uniform(99, values.size).astype(np.float64))]


# ---- Training.

def resnet18(width=64):
    model = torchvision.models.resnet18(num_classes=10)
    if width != 64:
        block = torchvision.models.resnet.BasicBlock
        model.inplanes = width
        model.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        model.bn1 = torch.nn.BatchNorm2d(width)
        model.layer1 = model._make_layer(block, width, 2)
        for stage in (2, 3, 4):
            setattr(model, f"layer{stage}", model._make_layer(block, width << (stage - 1), 2, stride=2))
        model.fc = torch.nn.Linear(8 * width, 10)
    return model


def compute_gradients(model, images, labels):
    """The loss, after a backward pass."""
    model.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model(images.to(model.fc.weight.dtype)), labels)
    loss.backward()
    return loss.item()


def train(model, batches):
    """Yields the loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for images, labels in batches:
        loss = compute_gradients(model, images, labels)
        optimizer.step()
        yield loss


def gradients(model):
    return {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}


def compare_precisions(model, images, labels):
    """The loss in float32 and float64, the float64 gradient, and the norms of the float32 gradient's errors."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loss_float32 = compute_gradients(model, images, labels)
    approximate = gradients(model)
    model.load_state_dict(state)  # the batch has changed the running statistics
    model.double()
    loss_float64 = compute_gradients(model, images, labels)
    exact = gradients(model)
    model.float().load_state_dict(state)
    errors = {name: np.linalg.norm(approximate[name].astype(np.float64) - exact[name]) for name in exact}
    return loss_float32, loss_float64, exact, errors


# ---- The files.

def write_narrow(path):
    model = resnet18(width=8)
    fill_by_formula(model)
    batches = [batch_by_formula(step, 16) for step in range(STEPS)]
    loss_float32, loss_float64, exact, errors = compare_precisions(model, *batches[0])
    gradient = {name: fingerprint(torch.from_numpy(value)) for name, value in exact.items()}
    model.double()
    losses = list(train(model, batches))
    fixture = {"torch": torch.__version__, "loss_float32": loss_float32, "loss_float64": loss_float64, "losses": losses,
               "gradient": gradient, "float32_gradient_error": errors,
               "final_state": {name: fingerprint(value) for name, value in model.state_dict().items()}}
    path.write_text(json.dumps(fixture, indent=1) + "\n")


def cifar10(folder):
    """Images normalised as the trainer does, and labels, of the first training file."""
    files = sorted(folder.rglob("data_batch_1.bin"))
    if not files:
        sys.exit(f"make_fixtures: no data_batch_1.bin under {folder}")
    records = np.fromfile(files[0], np.uint8).reshape(-1, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32))
    return (images / 255 - 0.5) / 0.5, torch.from_numpy(records[:, 0].astype(np.int64))


def random_images():
    """Ten classes, each a smooth random pattern under noise; half of the labels are random, so that the loss stays well
    above zero, as relative comparisons need it."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(10, (10000,), generator=generator)
    patterns = torch.nn.functional.interpolate(torch.randn(10, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    images = patterns[labels] * 0.5 + torch.randn(10000, 3, 32, 32, generator=generator) * 0.5
    labels[::2] = torch.randint(10, (5000,), generator=generator)
    return images, labels


def write_trajectory(path, images, labels):
    torch.manual_seed(1)
    model = resnet18()
    tensors = {f"weights.{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    # Batches of 8 would amplify the last bit of the first weights to 1e-9 within 20 steps; batches of 16 leave 1e-12.
    images, labels = images[:STEPS * 16], labels[:STEPS * 16]
    losses = list(train(model.double(), zip(images.split(16), labels.split(16))))
    tensors.update(images=images.numpy(), labels=labels.numpy(), losses=np.array(losses))
    save_safetensors(path, tensors)


def near_kinks(model, images):
    """What decides in each ReLU and the max pool: inputs of the former, first minus second in windows of the latter."""
    decisive = []

    def at_relu(module, inputs):
        decisive.append(inputs[0].clone())  # the ReLU overwrites it

    def at_max_pool(module, inputs):
        x = inputs[0]
        windows = torch.nn.functional.unfold(x.flatten(0, 1).unsqueeze(1), 3, padding=1, stride=2)
        first, second = windows.topk(2, dim=1).values.unbind(1)
        decisive.append(torch.where(first > 0, first - second, 1))  # nothing flows back into a window of zeros

    handles = [module.register_forward_pre_hook(at_relu if isinstance(module, torch.nn.ReLU) else at_max_pool)
               for module in model.modules() if isinstance(module, (torch.nn.ReLU, torch.nn.MaxPool2d))]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model(images)
    model.load_state_dict(state)  # the batch has changed the running statistics
    for handle in handles:
        handle.remove()
    return decisive


def calmest(model, batches):
    """How far the batch farthest from the kinks is from them, in units of the rounding errors there, and its index. The
    gradient jumps where a ReLU's input changes sign or a max pool's winner changes; one such flip among a million
    decisions moves all of it by up to a percent, which would hide the errors of arithmetic that are to be compared."""
    images = batches[0][0]
    approximate = near_kinks(model, images)
    exact = near_kinks(model.double(), images.double())
    model.float()
    errors = [(a.double() - e).square().mean().sqrt() for a, e in zip(approximate, exact)]

    def distance(batch):
        return min((x.abs().min() / error).item() for x, error in zip(near_kinks(model, batch[0]), errors))

    return max((distance(batch), index) for index, batch in enumerate(batches))


def write_gradients(folder, images, labels):
    torch.manual_seed(1)
    model = resnet18()
    trainer = train(model, zip(images.split(128), labels.split(128)))
    # Small batches, since only those can keep clear of the kinks; that there are many of them makes up for the choice.
    candidates = list(zip(images.split(32), labels.split(32)))[:160]
    steps = 0
    for wanted in (0, 10, 30, 70):
        while steps < wanted:
            next(trainer)
            steps += 1
        distance, chosen = calmest(model, candidates)
        batch = candidates[chosen]
        tensors = {f"weights.{name}": value.numpy().copy() for name, value in model.state_dict().items()}
        loss_float32, loss_float64, exact, errors = compare_precisions(model, *batch)
        tensors.update({f"gradient.{name}": value for name, value in exact.items()})
        tensors.update({f"error.{name}": np.float64(value) for name, value in errors.items()})
        tensors.update(images=batch[0].numpy(), labels=batch[1].numpy(), loss_float32=np.float64(loss_float32),
                       loss_float64=np.float64(loss_float64))
        save_safetensors(folder / f"gradients_{wanted}.safetensors", tensors)
        norm = math.sqrt(sum(np.square(value).sum() for value in exact.values()))
        error = math.sqrt(sum(np.square(value) for value in errors.values()))
        print(f"after {wanted} steps: batch {chosen}, {distance:.0f} rounding errors from a kink; "
              f"PyTorch's gradient error {error / norm:.2e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path,
                        help="a folder with CIFAR-10's binary version; random images without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("narrow", "trajectory", "gradients"))
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    images, labels = cifar10(args.data) if args.data else random_images()
    if args.only in (None, "narrow"):
        write_narrow(args.out / "narrow_resnet18.json")
    if args.only in (None, "trajectory"):
        write_trajectory(args.out / "trajectory_float64.safetensors", images, labels)
    if args.only in (None, "gradients"):
        write_gradients(args.out, images, labels)


main()
