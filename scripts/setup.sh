#!/usr/bin/env bash
# Installs what building Lockstep needs from the distribution (Debian 12 is the one verified), as root or with sudo. What is
# there already is left alone, so a second run does nothing. With --dev also what developers want: formatting, coverage,
# documentation, PyTorch to compare with, and the builds that emulate CUDA. (libbacktrace comes with g++.)
set -euo pipefail

packages=(g++ cmake ninja-build ca-certificates python3
  libdnnl-dev libfmt-dev nlohmann-json3-dev libcurl4-openssl-dev libarchive-dev libopenmpi-dev openmpi-bin  # the library
  libcli11-dev libbenchmark-dev catch2)  # examples and benchmarks; tests
for argument in "$@"; do
  case $argument in
    --dev)
      packages+=(ccache clang-format-14 doxygen gcovr python3-torch python3-torchvision libopenblas0-openmp
        libboost-context-dev)  # emulated CUDA
      ;;
    *)
      echo "usage: setup.sh [--dev]" >&2
      exit 2
      ;;
  esac
done

if ! command -v apt-get > /dev/null; then
  echo "setup: no apt-get here; these Debian packages (or what stands for them) are needed: ${packages[*]}"
  exit 0
fi
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' "${packages[@]}" 2> /dev/null || true)
missing=()
for package in "${packages[@]}"; do
  grep -qx "installed $package" <<< "$installed" || missing+=("$package")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "setup: run this as root, or install sudo; missing: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends "${missing[@]}" > /dev/null
echo "setup: done"
