#!/usr/bin/env python3
"""Plants bugs in a copy of the sources, one after the other, and tells which test catches each.

    scripts/mutate.py                     the bugs of all files tests/mutants/<set>.txt
    scripts/mutate.py library             those of one set
    scripts/mutate.py --only NAME         one bug; may be repeated
    scripts/mutate.py --resume            goes on after an interruption, and tries the survivors again
    scripts/mutate.py --list | --check    prints them | only checks that each still fits the sources

A bug is a block of such a file:

    [name] kind: file
    tests: core.tape          (if wanted: the tests to try first)
    -the text that is replaced, which the file must hold exactly once (line breaks and indentation aside)
    +the text that takes its place

Above its first bug a file may say what its bugs need:

    build: emulated           (the kernels on emulated CUDA devices; without this line: the CPU alone)
    modules: cuda emulated    (whose tests are built and run; without this line: all)
    without: cuda.training    (tests that are not run, for the time they take)

The copy, its builds and the results live in build/mutants. Each bug is built there and the tests that are not slow run until one
fails, up to their first failure: those named, those of the file and the module it is in, then the rest, the quickest first. Exits
with 1 if fewer than 95 % are caught.
"""
import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
SOURCE = WORK / "source"
RESULTS, TABLE = WORK / "results.json", WORK / "table.md"
WANTED_PERCENT = 95
MAX_MEMORY = 8 << 30  # bytes of address space of a test: a planted bug may ask for all there is
SKIPPED = 77  # what a test returns where it lacks something
CONFIGURE = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DLOCKSTEP_INSTALL=OFF",
             "-DLOCKSTEP_BUILD_EXAMPLES=OFF", "-DLOCKSTEP_BUILD_BENCHMARKS=OFF"]


BUILDS = {"cpu": [], "emulated": ["-DLOCKSTEP_CUDA=EMULATED"]}  # further options


class Failure(Exception):
    """Ends the script with its text."""


@dataclasses.dataclass(frozen=True)
class Build:
    """What the bugs of a set need."""
    name: str = "cpu"
    modules: tuple = ()  # all if empty
    without: tuple = ()

    @property
    def folder(self):
        return WORK / self.name


@dataclasses.dataclass
class Mutant:
    where: str
    name: str
    kind: str
    file: str
    build: Build
    tests: list = dataclasses.field(default_factory=list)
    old: list = dataclasses.field(default_factory=list)
    new: list = dataclasses.field(default_factory=list)

    def apply(self, text):
        words, new = "\n".join(self.old).split(), "\n".join(self.new)
        pattern = re.compile(r"\s+".join(map(re.escape, words)))  # wherever lines are broken
        count = len(pattern.findall(text)) if words else 0
        if count != 1:
            raise Failure(f"{self.where}: {self.name}: {self.file} holds its text {count} times, expected once")
        if words == new.split():
            raise Failure(f"{self.where}: {self.name}: it replaces nothing")
        return pattern.sub(lambda _: new, text)


@dataclasses.dataclass
class Test:
    name: str
    command: list
    folder: str
    environment: dict
    limited: bool  # in memory; emulated devices reserve far more addresses than they use, and have limits of their own
    seconds: float = 0.0

    @property
    def program(self):
        return pathlib.Path(self.command[0]).name


def read_mutants(sets):
    mutants = []
    for name in sets:
        path = ROOT / "tests" / "mutants" / f"{name}.txt"
        if not path.exists():
            raise Failure(f"there is no {path.relative_to(ROOT)}")
        needs, first = Build(), len(mutants)
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path.relative_to(ROOT)}:{number}"
            if header := re.fullmatch(r"\[(\w+)\] ([\w -]+): (\S+)", line):
                mutants.append(Mutant(where, *header.groups(), needs))
            elif not line or line.startswith("#"):
                continue
            elif len(mutants) == first and line.startswith("build: ") and line[7:] in BUILDS:
                needs = dataclasses.replace(needs, name=line[7:])
            elif len(mutants) == first and line.startswith("modules: "):
                needs = dataclasses.replace(needs, modules=tuple(line.split()[1:]))
            elif len(mutants) == first and line.startswith("without: "):
                needs = dataclasses.replace(needs, without=tuple(line.split()[1:]))
            elif len(mutants) > first and line.startswith("tests: "):
                mutants[-1].tests = line.split()[1:]
            elif len(mutants) > first and line[0] in "-+":
                (mutants[-1].old if line[0] == "-" else mutants[-1].new).append(line[1:])
            else:
                raise Failure(f"{where}: expected '[name] kind: file', 'tests: ', '-' or '+', above them "
                              f"'build: ' ({' or '.join(BUILDS)}), 'modules: ' or 'without: ', got: {line}")
    names = [mutant.name for mutant in mutants]
    for name in {name for name in names if names.count(name) > 1}:
        raise Failure(f"two mutants are called {name}")
    return mutants


def mutated(mutant):
    path = ROOT / mutant.file
    if not path.is_file():
        raise Failure(f"{mutant.where}: {mutant.name}: there is no {mutant.file}")
    return mutant.apply(path.read_text())


class Screen:
    """One line for each thing done; on a terminal also one that shows what is going on."""

    def __init__(self):
        self.live = sys.stdout.isatty()

    def line(self, text):
        print(("\r\033[K" if self.live else "") + text, flush=True)

    def status(self, text):
        if self.live:
            print("\r\033[K" + text[:shutil.get_terminal_size().columns - 1], end="", flush=True)


def run(command, timeout=None, **options):
    """Return code (None where it took longer than `timeout`) and output of a command. It ends with this script, together with
    all that it started."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True, **options)
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None, ""
        raise


def copy_sources():
    """Makes SOURCE what git knows and what it does not ignore, as it is now; returns the digest of all. Files that are right
    already keep their times, so that little is built again."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    names = sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})
    whole = hashlib.sha256()
    for name in names:
        source, target = ROOT / name, SOURCE / name
        content = source.read_bytes()
        whole.update(name.encode() + b"\0" + content)
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for path in SOURCE.rglob("*"):
        if path.is_file() and str(path.relative_to(SOURCE)) not in names:
            path.unlink()
    return whole.hexdigest()


def make(build, targets, jobs):
    code, output = run(["ninja", "-C", build.folder, f"-j{jobs}", *targets])
    return code == 0, output


def run_test(test, timeout):
    """What happened: 'passed', 'failed' or 'timeout'."""
    def limit():
        if test.limited:
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    code, _ = run([*test.command, "--abort"], timeout, preexec_fn=limit, cwd=test.folder, env=os.environ | test.environment)
    return {0: "passed", SKIPPED: "passed", None: "timeout"}.get(code, "failed")


def find_tests(build):
    """The tests that are not slow; others look at sources and installations, not at programs of ours."""
    code, output = run(["ctest", "--test-dir", build.folder, "--show-only=json-v1", "-LE", "slow"])
    if code != 0:
        raise Failure(f"ctest failed:\n{output}")
    tests = []
    for entry in json.loads(output)["tests"]:
        program = pathlib.Path(entry.get("command", [""])[0]).name  # none where it was not built
        found = re.fullmatch(r"lockstep_(\w+)_tests", program)
        if found and (not build.modules or found[1] in build.modules) and entry["name"] not in build.without:
            properties = {one["name"]: one["value"] for one in entry["properties"]}
            tests.append(Test(entry["name"], entry["command"], properties["WORKING_DIRECTORY"],
                              dict(pair.split("=", 1) for pair in properties["ENVIRONMENT"]), build.name == "cpu"))
    return tests


def prepare(build, tree, kept, screen, jobs):
    """Builds the copy as it is and runs all its tests, which must pass; returns them with the seconds that each took."""
    build.folder.mkdir(exist_ok=True)
    os.environ.setdefault("CCACHE_BASEDIR", str(WORK))
    screen.status(f"building the copy ({build.name})")
    started = time.monotonic()
    code, output = run(["cmake", "-S", SOURCE, "-B", build.folder, *CONFIGURE, *BUILDS[build.name]])
    if code != 0:
        raise Failure(f"configuring failed:\n{output}")
    built, output = make(build, [f"lockstep_{module}_tests" for module in build.modules], jobs)
    if not built:
        raise Failure(f"the sources do not build:\n{output[-3000:]}")
    screen.line(f"built the copy ({build.name}) in {time.monotonic() - started:.0f} s")
    tests = find_tests(build)

    known = kept["seconds"] if kept.get("tree") == tree else {}
    seconds = known.setdefault(build.name, {})
    kept.update(tree=tree, seconds=known)
    for test in tests:
        if test.name not in seconds:
            screen.status(f"without a bug: {test.name}")
            started = time.monotonic()
            if run_test(test, 900) != "passed":
                raise Failure(f"{test.name} fails without any planted bug")
            seconds[test.name] = time.monotonic() - started
            save(kept)
        test.seconds = seconds[test.name]
    screen.line(f"{len(tests)} tests pass without a bug in {sum(test.seconds for test in tests):.0f} s: "
                "what a surviving bug costs")
    return tests


def in_order(mutant, tests):
    module, stem = mutant.file.split("/")[0], pathlib.Path(mutant.file).stem

    def rank(test):
        test_module, _, name = test.name.partition(".")
        same_name = name.startswith(stem) or stem.startswith(name)
        closeness = (test.name not in mutant.tests, not (same_name and test_module == module), not same_name,
                     test_module != module)
        return closeness, test.seconds
    unknown = set(mutant.tests) - {test.name for test in tests}
    if unknown:
        raise Failure(f"{mutant.where}: {mutant.name}: there is no test {', '.join(unknown)}")
    return sorted(tests, key=rank)


def try_mutant(mutant, tests, jobs, screen):
    """{'outcome': caught, timeout, survived or invalid, 'test': the one that caught it}."""
    path = SOURCE / mutant.file
    original = path.read_text()
    path.write_text(mutant.apply(original))
    try:
        for test in in_order(mutant, tests):
            screen.status(f"{mutant.name}: building {test.program}")
            built, output = make(mutant.build, [test.program], jobs)
            if not built:
                return {"outcome": "invalid", "test": "", "output": output[-3000:]}
            screen.status(f"{mutant.name}: {test.name}")
            happened = run_test(test, max(30, 5 * test.seconds))
            if happened != "passed":
                return {"outcome": "timeout" if happened == "timeout" else "caught", "test": test.name}
        return {"outcome": "survived", "test": ""}
    finally:
        path.write_text(original)


def try_all(mutants, kept, tests, jobs, screen):
    """`tests`: those of each build."""
    results = kept["results"]
    digests = {mutant.name: hashlib.sha256(mutated(mutant).encode()).hexdigest() for mutant in mutants}
    left = [mutant for mutant in mutants if not (results.get(mutant.name, {}).get("digest") == digests[mutant.name] and
                                                 results[mutant.name]["outcome"] in ("caught", "timeout"))]
    begin = time.monotonic()
    for number, mutant in enumerate(left, 1):
        started = time.monotonic()
        result = try_mutant(mutant, tests[mutant.build], jobs, screen)
        result.update(seconds=time.monotonic() - started, digest=digests[mutant.name])
        results[mutant.name] = result
        save(kept)
        each = (time.monotonic() - begin) / number
        screen.line(f"[{len(mutants) - len(left) + number}/{len(mutants)}] {result['outcome']:<8} {mutant.name:<40} "
                    f"{result['test']:<28} {result['seconds']:5.1f} s  ({60 / each:.1f} a minute, "
                    f"{each * (len(left) - number) / 60:.0f} min left)")
        if result["outcome"] == "invalid":
            screen.line(result.pop("output"))


def save(kept):
    aside = RESULTS.with_suffix(".tmp")
    aside.write_text(json.dumps(kept, indent=1))
    aside.replace(RESULTS)


def report(mutants, results):
    """Prints the table and the counts; returns whether enough were caught."""
    said = {"timeout": "{} (timeout)", "survived": "**nothing**", "invalid": "does not build", "caught": "{}"}
    lines = ["| bug | kind | file | caught by | seconds |", "|---|---|---|---|---:|"]
    for mutant in mutants:
        result = results[mutant.name]
        caught_by = said[result["outcome"]].format(result["test"])
        lines.append(f"| {mutant.name} | {mutant.kind} | {mutant.file} | {caught_by} | {result['seconds']:.1f} |")
    outcomes = [results[mutant.name]["outcome"] for mutant in mutants]
    valid = len(outcomes) - outcomes.count("invalid")
    caught = outcomes.count("caught") + outcomes.count("timeout")
    percent = 100 * caught / max(valid, 1)
    counts = [f"mutants: {valid}", f"caught: {caught}", f"of_these_by_timeout: {outcomes.count('timeout')}",
              f"invalid: {outcomes.count('invalid')}", f"percent: {percent:.1f}"]
    TABLE.write_text("\n".join(lines + [""] + counts) + "\n")
    print("\n".join(["", *lines, "", *counts]))
    return percent >= WANTED_PERCENT and valid == len(outcomes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in (ROOT / "tests" / "mutants").glob("*.txt"))
    parser.add_argument("sets", nargs="*", metavar="set", help=f"of {', '.join(known)}; without any: all")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this bug")
    parser.add_argument("--list", action="store_true", help="print the bugs, plant none")
    parser.add_argument("--check", action="store_true", help="check that each bug still fits the sources, plant none")
    parser.add_argument("--resume", action="store_true", help="keep what was found out before about files as they are now")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="of ninja; default: all processors")
    arguments = parser.parse_args()

    mutants = read_mutants(arguments.sets or known)
    for name in arguments.only or []:
        if name not in {mutant.name for mutant in mutants}:
            raise Failure(f"there is no mutant {name}")
    mutants = [mutant for mutant in mutants if not arguments.only or mutant.name in arguments.only]
    faults = []
    for mutant in mutants:
        try:
            mutated(mutant)
        except Failure as failure:
            faults.append(str(failure))
        if arguments.list:
            print(f"{mutant.name:<40} {mutant.kind:<24} {mutant.file}")
    if faults:
        raise Failure("\n".join(faults))
    if arguments.list or arguments.check:
        print(f"mutants: {len(mutants)}")
        return 0

    WORK.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept.setdefault("results", {})
    if not arguments.resume:
        for mutant in mutants:
            kept["results"].pop(mutant.name, None)
    screen = Screen()
    tree = copy_sources()
    builds = dict.fromkeys(mutant.build for mutant in mutants)  # in order
    tests = {build: prepare(build, tree, kept, screen, arguments.jobs) for build in builds}
    try_all(mutants, kept, tests, arguments.jobs, screen)
    return 0 if report(mutants, kept["results"]) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"mutate: {failure}")
    except KeyboardInterrupt:
        sys.exit("\nmutate: interrupted; --resume goes on")
