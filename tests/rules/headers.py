"""Every public header compiles alone, without a warning.

usage: headers.py <compiler> <include directory> <list of public headers>
"""
import concurrent.futures
import os
import pathlib
import subprocess
import sys

compiler, include_dir, list_file = sys.argv[1:]
headers = pathlib.Path(list_file).read_text().split() + ["lockstep.h"]


def errors_of(header):
    # Twice, so that a header without an include guard shows.
    text = f"#include <lockstep/{header}>\n" * 2
    command = [compiler, "-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-fsyntax-only",
               f"-I{include_dir}", "-xc++", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True).stderr


with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    faults = [f"{header}:\n{errors}" for header, errors in zip(headers, pool.map(errors_of, headers)) if errors]
print("\n".join(faults) or f"{len(headers)} headers compile alone")
sys.exit(bool(faults))
