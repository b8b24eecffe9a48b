"""What a process costs from its start to its end."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# A process's peak memory counts that of the one it was started from, so a small one comes between.
_LAUNCHER = """
import json, os, subprocess, sys, time
cores, command = json.loads(sys.argv[1]), sys.argv[2:]
if cores:
    os.sched_setaffinity(0, cores)
begin = time.perf_counter()
process = subprocess.Popen(command, stdout=2)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - begin
print(json.dumps([status, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Run:
    """Seconds by the clock, seconds of CPU, peak memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def run(command: Sequence[str], cores: Sequence[int] = (), **environment: str) -> Run:
    """Run a command to its end, on `cores` only if there are any; what it prints goes to standard error."""
    launcher = [sys.executable, "-c", _LAUNCHER, json.dumps(list(cores)), *command]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, env={**os.environ, **environment}, check=True)
    status, *figures = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(*figures)
