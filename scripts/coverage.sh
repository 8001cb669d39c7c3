#!/usr/bin/env bash
# coverage.sh: builds into build/coverage with counters, runs the tests that are not slow, and prints which share of the lines
# of core, kernels, layers and data they run. Fails below 92 %.
# coverage.sh kernels: the same for the lines and branches of the CUDA kernels, which run on emulated devices, in
# build/kernel-coverage, by the kernels' own tests. Fails below 98 % of the branches. A branch of a template counts as taken if any
# of its instances takes it; branches that only an exception takes (of calls that may throw, to what cleans up) do not count.
# What is counted stands line by line in build/<preset>/report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v gcovr > /dev/null; then
  echo "coverage: gcovr is not installed; scripts/setup.sh --dev does it" >&2
  exit 1
fi
case "${1-}" in
  "")
    preset=coverage
    targets=()
    tests=(-LE '^(slow|rules|docs)$')
    folders=$(sed -nE 's/^set\(LOCKSTEP_FOLDERS (.*)\)$/\1/p' cmake/lockstep_headers.cmake)
    counted=(--fail-under-line 92)
    for folder in ${folders:?}; do
      counted+=(--filter "$folder/")
    done
    ;;
  kernels)
    preset=kernel-coverage
    targets=(lockstep_cuda_tests)
    tests=(-L '^cuda$' -LE '^slow$' -E '^cuda[.](op_registry|random_problems|training)$')
    counted=(--filter 'kernels/cuda/[a-z0-9_]+\.cuh?$' --branches --exclude-throw-branches --fail-under-branch 98)
    ;;
  *)
    echo "usage: coverage.sh [kernels]" >&2
    exit 1
    ;;
esac

build=build/$preset
scripts/build.sh "$preset" "${targets[@]}"
find "$build" -name '*.gcda' -delete  # counts of an earlier run
ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$(nproc)" "${tests[@]}"
mkdir -p "$build/report"
status=0
gcovr --root . "${counted[@]}" --print-summary --txt "$build/report/table.txt" --html-details "$build/report/index.html" \
  "$build" || status=$?
sed "s|^$build/include/lockstep/||" "$build/report/table.txt"
exit "$status"
