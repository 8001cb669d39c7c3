#!/usr/bin/env bash
# docs.sh [folder]: makes the API reference from the public headers, README.md and docs/, by default in build/docs, and fails on
# any warning. Whatever a user can name needs a comment there; data members may do with that of their struct; operators, copies,
# moves and an iterator's types mean what they always mean. Exits with 77 where Doxygen is not installed.
set -euo pipefail
mkdir -p "${1:-$(dirname "$0")/../build/docs}"
folder=$(cd "${1:-$(dirname "$0")/../build/docs}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v doxygen > /dev/null; then
  echo "Doxygen is not installed; scripts/setup.sh --dev does it"
  exit 77
fi
needs_no_words='Member [^()]+ \(variable\)|Member operator|Member ([A-Za-z0-9]+)\((const )?\1 &|\(typedef\) of class [^ ]*Iterator '
(cat docs/Doxyfile && echo "OUTPUT_DIRECTORY = \"$folder\"") | doxygen - 2>&1 | grep -Ev "$needs_no_words" > "$folder/warnings" || true
if [[ -s $folder/warnings ]]; then
  sed "s|^$PWD/||" "$folder/warnings"
  exit 1
fi
echo "$folder/html/index.html"
