"""A tutorial shows what is true: each of its C++ blocks is a run of lines of its sources, <name>.h, .cpp and .cu beside
<name>.md, and its text blocks, one after the other, are what its program prints.

usage: tutorial.py <name>.md <program>
"""
import pathlib
import re
import subprocess
import sys
import tempfile


def occurs(block, source):
    """Whether `block` is a run of lines of `source`, perhaps indented there."""
    for start in range(len(source) - len(block) + 1):
        lines = source[start:start + len(block)]
        indent = lines[0][:len(lines[0]) - len(lines[0].lstrip())]
        if [line and indent + line for line in block] == lines:
            return True
    return False


tutorial, program = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
sources = [tutorial.with_suffix(suffix) for suffix in (".h", ".cpp", ".cu")]
sources = [source.read_text().splitlines() for source in sources if source.exists()]
faults = []
shown = []
blocks = 0
for match in re.finditer(r"^```(\w*)\n(.*?)^```$", tutorial.read_text(), re.S | re.M):
    language, text = match.groups()
    if language == "text":
        shown += text.splitlines()
    elif language == "cpp":
        blocks += 1
        if not any(occurs(text.splitlines(), source) for source in sources):
            faults.append(f"this is not in the program:\n{text}")
    elif language not in ("sh", "cmake"):
        faults.append(f"a block of language '{language}'")

with tempfile.TemporaryDirectory() as folder:
    run = subprocess.run([program], cwd=folder, stdout=subprocess.PIPE, text=True, timeout=300)
if run.returncode != 0:
    faults.append(f"the program ends with status {run.returncode}")
printed = run.stdout.splitlines()
if printed != shown:
    faults.append("\n".join(["the program prints", *printed, "", "and the tutorial shows", *shown]))
if blocks == 0 or not printed:
    faults.append("nothing to compare")
print("\n\n".join(faults) or f"{blocks} blocks and {len(printed)} lines of output are as shown")
sys.exit(bool(faults))
