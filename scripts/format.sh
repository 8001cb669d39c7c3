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
sources() {
  find . -path ./build -prune -o \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0
}
if [[ ${1:-} != --check ]]; then
  sources | xargs -0 "$format" -i
elif ! output=$(sources | xargs -0 "$format" --dry-run -Werror 2>&1); then
  echo "scripts/format.sh would change:"
  grep -oP '^\./\K[^ :]+(?=:\d+:\d+: error)' <<< "$output" | sort | uniq -c
  exit 1
fi
