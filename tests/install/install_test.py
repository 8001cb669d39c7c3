"""Installs the build into an empty folder, builds the consumer and the README's first program against it with warnings as
errors, runs them, and checks what they included: our headers and the C++ standard library, nothing of a third party."""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys


def run(*command, **options):
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], check=True, text=True, **options)


def dependencies(compiler, *arguments, text=None):
    """The files that a translation unit includes."""
    rule = run(compiler, "-std=c++20", "-M", *arguments, input=text, stdout=subprocess.PIPE).stdout
    return {pathlib.Path(name).resolve() for name in rule.replace("\\\n", " ").split()[1:] if name.startswith("/")}


parser = argparse.ArgumentParser(description=__doc__)
for option in ("cmake", "compiler", "build-dir", "readme", "generator", "sanitize", "version"):
    parser.add_argument(f"--{option}", required=True)
parser.add_argument("--kernel", help="path of own_op.h and own_op.cu, without the ending, in a build with CUDA")
args = parser.parse_args()

work = pathlib.Path.cwd() / "install_test"
shutil.rmtree(work, ignore_errors=True)
prefix, project, build = work / "prefix", work / "project", work / "build"
run(args.cmake, "--install", args.build_dir, "--prefix", prefix, stdout=subprocess.DEVNULL)

# No header is forgotten in the umbrella, none that it names is missing.
include = prefix / "include"
umbrella = set(re.findall(r"#include <(.+)>", (include / "lockstep/lockstep.h").read_text()))
installed = {file.relative_to(include).as_posix() for file in include.rglob("*.h")} - {"lockstep/lockstep.h"}
if umbrella != installed or not installed:
    sys.exit(f"the umbrella header and the installed headers differ in {sorted(umbrella ^ installed)}")

shutil.copytree(pathlib.Path(__file__).parent / "consumer", project)
first_program = re.search(r"```cpp\n(.*?)```", pathlib.Path(args.readme).read_text(), re.S).group(1)
(project / "first_program.cpp").write_text(first_program)
if args.kernel:
    for ending in (".h", ".cu"):
        shutil.copy(args.kernel + ending, project)
flags = f"-fsanitize={args.sanitize}" if args.sanitize else ""
cuda = ["-DCMAKE_CUDA_ARCHITECTURES=90"] if args.kernel else []
run(args.cmake, "-S", project, "-B", build, "-G", args.generator, f"-DCMAKE_CXX_COMPILER={args.compiler}",
    f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_FLAGS={flags}", *cuda)
run(args.cmake, "--build", build)

version = run(build / "consumer", stdout=subprocess.PIPE).stdout.strip()
if version != args.version:
    sys.exit(f"the consumer prints version {version}, expected {args.version}")
output = run(build / "first_program", stdout=subprocess.PIPE, cwd=build, timeout=600).stdout
print(output)
if float(re.findall(r"([\d.]+) % right", output)[-1]) < 80.0:
    sys.exit("the first program does not learn")

# <bits/stdc++.h> is every standard header: whatever else a consumer of ours includes comes from a third party.
standard = dependencies(args.compiler, "-xc++", "-", text="#include <bits/stdc++.h>\n")
included = dependencies(args.compiler, f"-I{include}", project / "consumer.cpp")
foreign = [file for file in included - standard if prefix.resolve() not in file.parents and project not in file.parents]
if foreign:
    sys.exit(f"third-party headers come in: {foreign}")
print(f"{len(installed)} headers installed, nothing foreign among {len(included)} included files")
