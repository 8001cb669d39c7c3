"""A rank that leaves when it should not ends the job, soon, and says why.

usage: faults.py <mpirun> <its option for the number of processes> <faults program>
"""
import subprocess
import sys
import time

MPIRUN, OPTION, PROGRAM = sys.argv[1:]
CASES = {  # fault: (seconds it may take, what must be printed)
    "none": (20, []),
    # The reason is told by both: the one that throws, and the one that calls a collective meanwhile.
    "throws": (20, ["caught: planted",
                    "caught: [all_reduce] expected the same collective on every rank, got all_reduce(sum, float32 [4]) on rank 0 "
                    "and the end of its process group by an exception on rank 1"]),
    # The other one does not come: it is not waited for longer than 5 s.
    "throws_alone": (30, ["caught: planted", "lockstep: rank 1 ends the job: it leaves its process group by an exception"]),
    "leaves": (30, ["caught: [all_reduce] expected the same collective on every rank, got all_reduce(sum, float32 [4]) on rank 0 "
                    "and the end of its process group on rank 1"]),
    "is_elsewhere": (20, ["caught: [mpi_process_group] expected rank 0 of 8, 0 of 8 on this machine, by torchrun, got rank 0 of 2 "
                          "from MPI"]),
    "exits": (30, []),  # mpirun's own words
}

failed = False
for fault, (seconds, texts) in CASES.items():
    start = time.monotonic()
    result = subprocess.run([MPIRUN, OPTION, "2", PROGRAM, fault], capture_output=True, text=True, timeout=seconds)
    output = result.stdout + result.stderr
    missing = [text for text in texts if text not in output]
    right = not missing and (result.returncode == 0) == (fault == "none")
    print(f"{fault}: exit status {result.returncode} after {time.monotonic() - start:.1f} s{'' if right else ': WRONG'}")
    if not right:
        failed = True
        print("missing:", missing, "\noutput:\n" + output)
sys.exit(failed)
