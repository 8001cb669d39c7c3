#!/usr/bin/env bash
# Builds into build/coverage with counters, runs the tests that are not slow, and prints which share of the lines of core,
# kernels, layers and data they run; line by line it stands in build/coverage/report. Fails below 92 %.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
least=92

if ! command -v gcovr > /dev/null; then
  echo "coverage: gcovr is not installed; scripts/setup.sh --dev does it" >&2
  exit 1
fi
folders=$(sed -nE 's/^set\(LOCKSTEP_FOLDERS (.*)\)$/\1/p' cmake/lockstep_headers.cmake)
filters=()
for folder in ${folders:?}; do
  filters+=(--filter "$folder/")
done

scripts/build.sh coverage
find build/coverage -name '*.gcda' -delete  # counts of an earlier run
ctest --test-dir build/coverage --output-on-failure --no-tests=error --parallel "$(nproc)" -LE '^(slow|rules|docs)$'
mkdir -p build/coverage/report
status=0
gcovr --root . "${filters[@]}" --print-summary --fail-under-line "$least" --txt build/coverage/report/table.txt \
  --html-details build/coverage/report/index.html build/coverage || status=$?
sed 's|^build/coverage/include/lockstep/||' build/coverage/report/table.txt
exit "$status"
