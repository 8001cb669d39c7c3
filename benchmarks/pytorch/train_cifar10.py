"""PyTorch twin of examples/train_resnet18_cifar10.cpp: the same training on the same files, printing the same lines,
so that the two loss curves can be laid side by side. Five epochs take about five minutes on two cores.

  python3 benchmarks/pytorch/train_cifar10.py --data ../shared/cifar10 --seed 1
"""
import argparse
import pathlib

import numpy as np
import torch
import torchvision


def load(folder, pattern):
    """uint8 images [N, 3, 32, 32] and labels [N] of CIFAR-10's binary version."""
    files = sorted(folder.rglob(pattern))
    if not files:
        raise SystemExit(f"train_cifar10: no {pattern} under {folder}")
    records = np.concatenate([np.fromfile(file, np.uint8) for file in files]).reshape(-1, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).copy()
    return torch.from_numpy(images), torch.from_numpy(records[:, 0].astype(np.int64))


def normalize(images):
    """ToTensor, Normalize(0.5, 0.5)."""
    return (images.float() / 255 - 0.5) / 0.5


def accuracy(model, images, labels, batch_size, device):
    model.eval()
    with torch.no_grad():
        correct = sum((model(normalize(x).to(device)).argmax(1) == y.to(device)).sum().item()
                      for x, y in zip(images.split(batch_size), labels.split(batch_size)))
    return 100 * correct / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with CIFAR-10's binary version")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--log-interval", type=int, default=100)
    parser.add_argument("--max-steps", type=int, default=0, help="stop each epoch after so many steps; 0: never")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.allow_tf32 = False  # as Lockstep
    images, labels = load(args.data, "data_batch_*.bin")
    test_images, test_labels = load(args.data, "test_batch.bin")
    model = torchvision.models.resnet18(num_classes=10).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    for epoch in range(1, args.epochs + 1):
        model.train()
        total = torch.zeros((), device=args.device)  # stays there: reading each loss would wait for it
        for step, index in enumerate(torch.randperm(len(labels)).split(args.batch_size), 1):
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(model(normalize(images[index]).to(args.device)),
                                                     labels[index].to(args.device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
            if step % args.log_interval == 0:
                print(f"[Epoch {epoch}, Step {step}] Loss: {total.item() / args.log_interval:.3f}", flush=True)
                total.zero_()
            if step == args.max_steps:
                break
        print(f"[Epoch {epoch}] Test accuracy: {accuracy(model, test_images, test_labels, 1000, args.device):.2f} %",
              flush=True)


main()
