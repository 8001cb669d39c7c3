#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the tests, but for those labelled slow. Arguments go to ctest:
#
#   scripts/test.sh -R core          the tests whose names contain 'core'
#   scripts/test.sh -L rules         those labelled 'rules'
#
# LOCKSTEP_PRESET=debug (AddressSanitizer, UndefinedBehaviorSanitizer) or tsan (ThreadSanitizer) takes another build.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
preset=${LOCKSTEP_PRESET:-release}

"$root/scripts/setup.sh"
"$root/scripts/build.sh" "$preset"
exec ctest --test-dir "$root/build/$preset" --output-on-failure --no-tests=error --parallel "$(nproc)" -LE slow "$@"
