#!/usr/bin/env bash
# Installs what is missing, builds the library and the trainer, and trains ResNet-18: on CIFAR-10 with --data <folder> (add
# --download to fetch it), else on synthetic images. All arguments go to the trainer; --help lists them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

"$root/scripts/setup.sh"
"$root/scripts/build.sh" release train_resnet18_cifar10
exec "$root/build/release/examples/train_resnet18_cifar10" "$@"
