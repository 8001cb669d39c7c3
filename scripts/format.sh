#!/usr/bin/env bash
# Formats all C++ sources with clang-format 14, Debian 12's, whose output differs from other versions'. With --check it changes
# nothing and fails if there is something to change; exits with 77 where that version is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

format=$(command -v clang-format-14 || command -v clang-format || true)
if [[ -z $format ]] || ! "$format" --version | grep -q 'version 14\.'; then
  echo "clang-format 14 is not installed; scripts/setup.sh --dev does it"
  exit 77
fi
mode=(-i)
[[ ${1:-} == --check ]] && mode=(--dry-run -Werror)
find core kernels layers data parallel examples tests benchmarks \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 2>/dev/null |
  xargs -0 "$format" "${mode[@]}"
