"""Includes point one way: core/base <- kernels <- core <- layers <- parallel; data uses core and what core uses; nothing in
the library uses examples, tests or benchmarks. Public headers include only public headers and the C++ standard library.

usage: includes.py <repository> <list of public headers>
"""
import pathlib
import re
import sys

ALLOWED = {  # folder: folders whose headers it may include
    "core/base": {"core/base"},
    "kernels": {"core/base", "kernels"},
    "core": {"core/base", "kernels", "core"},
    "layers": {"core/base", "kernels", "core", "layers"},
    "data": {"core/base", "kernels", "core", "data"},
    "parallel": {"core/base", "kernels", "core", "layers", "data", "parallel"},
}
STANDARD_HEADERS = set(
    """algorithm any array atomic barrier bit bitset cassert cctype cerrno cfenv cfloat charconv chrono cinttypes climits
    clocale cmath codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdarg cstddef cstdint
    cstdio cstdlib cstring ctime cuchar cwchar cwctype deque exception execution filesystem format forward_list fstream
    functional future initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map memory
    memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex scoped_allocator semaphore
    set shared_mutex source_location span sstream stack stdexcept stop_token streambuf string string_view strstream
    syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray
    variant vector version""".split())
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')


def folder_of(path):
    return "core/base" if path.startswith("core/base/") else path.split("/")[0]


root = pathlib.Path(sys.argv[1])
public = set(pathlib.Path(sys.argv[2]).read_text().split())
faults = []
sources = 0
for top in ("core", "kernels", "layers", "data", "parallel"):
    for file in sorted((root / top).rglob("*")):
        if file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        sources += 1
        name = file.relative_to(root).as_posix()
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quote, header = match.groups()
            ours = header.removeprefix("lockstep/") if header.startswith("lockstep/") else None
            fault = None
            if quote == '"':
                fault = 'quoted; write <lockstep/...>'
            elif ours == "lockstep.h":
                fault = "the umbrella is for users"
            elif ours is not None and folder_of(ours) not in ALLOWED[folder_of(name)]:
                fault = f"{folder_of(name)} may not use {folder_of(ours)}"
            elif name in public and ours is not None and ours not in public:
                fault = "a public header includes an internal one"
            elif name in public and ours is None and header not in STANDARD_HEADERS:
                fault = "a public header includes a third-party one"
            if fault:
                faults.append(f"{name}:{number}: <{header}>: {fault}")
print("\n".join(faults) or f"{sources} files keep the rules")
sys.exit(bool(faults) or sources == 0)
