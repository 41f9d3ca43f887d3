"""Timing of whole commands: wall seconds and peak memory of each run, from the operating system's own accounting."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """What `runs` runs of one command took: median wall seconds, and the median of each run's peak memory in MiB."""

    seconds: float
    fastest: float
    slowest: float
    mebibytes: float


def once(command: Sequence[str], cwd: Path, environ: Mapping[str, str], expect: int = 0) -> tuple[float, float]:
    """Run a command; wall seconds and its peak resident memory in MiB. Raises when it ends with another exit code."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expect:
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}:\n{output.decode(errors='replace')[-2000:]}"
        )
    return took, usage.ru_maxrss / 1024


def many(
    command: Sequence[str], cwd: Path, environ: Mapping[str, str], *, runs: int, warmup: int = 1, expect: int = 0
) -> Figure:
    """The median of `runs` runs after `warmup` ones that do not count."""
    for _ in range(warmup):
        once(command, cwd, environ, expect)
    taken = [once(command, cwd, environ, expect) for _ in range(runs)]
    seconds = [took for took, _ in taken]
    return Figure(
        statistics.median(seconds), min(seconds), max(seconds), statistics.median(memory for _, memory in taken)
    )
