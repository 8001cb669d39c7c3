"""Things that must not stand in a tracked file: paths of the machine it was written on, OpenMP pragmas (the thread pool is our
own), flags that tie the build to one processor, work left for later, kernel launches and shared memory past launch.cuh.

usage: sources.py <repository>
"""
import pathlib
import re
import sys

SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".in", ".py", ".sh", ".cmake", ".txt", ".json", ".md", ""}
SKIPPED = {".git", "build", "__pycache__"}
CODE = {".h", ".cpp", ".cu", ".cuh"}

root = pathlib.Path(sys.argv[1]).resolve()
machine_paths = [r"/home/\w", r"/root/\w", r"\b[A-Z]:\\Users\\", re.escape(f"{root}/")]
if root.parent.name not in {"", "home", "root", "usr", "opt", "src", "srv", "tmp", "var", "mnt", "local"}:
    machine_paths.append(re.escape(f"{root.parent}/"))
RULES = [  # (what, pattern, suffixes; None for all)
    ("a path of a machine", re.compile("|".join(machine_paths)), None),
    ("an OpenMP pragma", re.compile(r"#\s*pragma\s+omp\b"), CODE),
    ("a flag for one processor", re.compile(r"-m(arch|tune)=native"), {".cmake", ".txt", ".json", ".sh"}),
    ("a kernel launched past launch()", re.compile(r"<<<"), CODE),
    ("shared memory past block_shared()", re.compile(r"^(?!#define).*__shared__"), CODE),
    ("left for later", re.compile(r"\b(TODO|FIXME|XXX|not implemented|unimplemented|placeholder)\b", re.I), CODE | {".sh", ".cmake"}),
]
EXEMPT = {  # file: what it may
    "kernels/cuda/launch.cuh": "shared memory",
    "docs/own_op.cu": "a kernel launched",
}

faults = []
checked = 0
for file in sorted(root.rglob("*")):
    name = file.relative_to(root)
    if SKIPPED & set(name.parts) or not file.is_file() or file.suffix not in SUFFIXES or name.parts[:2] == ("tests", "rules"):
        continue
    checked += 1
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
        for what, pattern, suffixes in RULES:
            if what.startswith(EXEMPT.get(name.as_posix(), "-")):
                continue
            if (suffixes is None or file.suffix in suffixes) and pattern.search(line):
                faults.append(f"{name}:{number}: {what}: {line.strip()[:120]}")
print("\n".join(faults) or f"{checked} files keep the rules")
sys.exit(bool(faults) or checked == 0)
