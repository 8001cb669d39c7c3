#!/usr/bin/env bash
# docs.sh [folder]: makes the API reference from the public headers, README.md and docs/, by default in build/docs, and fails on
# any warning. Whatever a user can name needs a comment there; data members may do with that of their struct, a kernel on a CUDA
# stream with that of its twin on the CPU; operators, copies, moves and an iterator's types mean what they always mean. Exits
# with 77 where Doxygen is not installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "${1:-$root/build/docs}"
out=$(cd "${1:-$root/build/docs}" && pwd)
cd "$root"

if ! command -v doxygen > /dev/null; then
  echo "Doxygen is not installed; scripts/setup.sh --dev does it"
  exit 77
fi
folders=$(sed -nE 's/^set\(LOCKSTEP_FOLDERS (.*)\)$/\1/p' cmake/lockstep_headers.cmake)
if ! doxygen - > "$out/log" 2>&1 << EOF; then
$(< docs/Doxyfile)
INPUT += ${folders:?}
OUTPUT_DIRECTORY = "$out"
EOF
  cat "$out/log"
  exit 1
fi
needs_no_words='Member [^()]+ \(variable\)'
needs_no_words+='|Member operator'
needs_no_words+='|Member ([A-Za-z0-9]+)\((const )?\1 &'
needs_no_words+='|Member [a-z0-9_]+\(CudaStream'
needs_no_words+='|\(typedef\) of class [^ ]*Iterator '
if grep -Ev "$needs_no_words" "$out/log" | sed "s|^$root/||" | grep .; then
  exit 1
fi
echo "$out/html/index.html"
