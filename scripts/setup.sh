#!/usr/bin/env bash
# Installs what building Lockstep needs from the distribution (Debian 12 is the one verified), as root or with sudo. What is
# there already is left alone, so a second run does nothing. With --dev also what developers want: formatting, coverage,
# documentation, PyTorch to compare with, and the builds that emulate CUDA. (libbacktrace comes with g++.) With --cuda also
# the headers of cuDNN's graph API, into build/python if they are not there; the toolkit, cuDNN and NCCL are NVIDIA's to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cuda=false
packages=(g++ cmake ninja-build ca-certificates python3
  libdnnl-dev libfmt-dev nlohmann-json3-dev libcurl4-openssl-dev libarchive-dev libopenmpi-dev openmpi-bin  # the library
  libcli11-dev libbenchmark-dev catch2)  # examples and benchmarks; tests
for argument in "$@"; do
  case $argument in
    --dev)
      packages+=(ccache clang-format-14 doxygen gcovr python3-torch python3-torchvision libopenblas0-openmp
        libboost-context-dev)  # emulated CUDA
      ;;
    --cuda)
      cuda=true
      python3 -m pip --version > /dev/null 2>&1 || packages+=(python3-pip)
      ;;
    *)
      echo "usage: setup.sh [--dev] [--cuda]" >&2
      exit 2
      ;;
  esac
done

install_packages() {
  if ! command -v apt-get > /dev/null; then
    echo "setup: no apt-get here; these Debian packages (or what stands for them) are needed: ${packages[*]}"
    return
  fi
  local installed missing=() as_root=() package
  installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' "${packages[@]}" 2> /dev/null || true)
  for package in "${packages[@]}"; do
    grep -qx "installed $package" <<< "$installed" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  if ((EUID != 0)); then
    if ! command -v sudo > /dev/null; then
      echo "setup: run this as root, or install sudo; missing: ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
  "${apt[@]}" update
  "${apt[@]}" install --yes --no-install-recommends "${missing[@]}" > /dev/null
  echo "setup: done"
}

install_cudnn_frontend() {
  local version=1.32.0
  if [[ -e build/python/include/cudnn_frontend.h || -e /usr/include/cudnn_frontend.h ]] ||
    python3 -c 'import importlib.metadata as m; m.version("nvidia-cudnn-frontend")' 2> /dev/null; then
    return
  fi
  echo "setup: installing nvidia-cudnn-frontend $version into build/python"
  # A folder of its own needs no rights, also where the distribution keeps pip out of its own folders.
  python3 -m pip install --quiet --root-user-action=ignore --no-deps --target build/python "nvidia-cudnn-frontend==$version"
}

install_packages
if $cuda; then
  install_cudnn_frontend
fi
