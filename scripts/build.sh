#!/usr/bin/env bash
# build.sh <preset> [target...]: configures and builds into build/<preset>.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:?usage: build.sh <preset> [target...]}
shift

# Ninja configures again by itself when a CMake file has changed, but does not look at the presets.
if [[ ! -e build/$preset/build.ninja || CMakePresets.json -nt build/$preset/build.ninja ]]; then
  cmake --preset "$preset"
fi
cmake --build "build/$preset" ${1+--target "$@"}
