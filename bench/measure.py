"""Timing of whole commands: wall and processor seconds and peak memory, from the operating system's own accounting."""

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
    """Of one command, or the median of several runs: wall seconds, processor seconds (user and system, with all that
    it waited for), peak resident memory in MiB.
    """

    wall: float
    cpu: float
    mebibytes: float

    def less(self, other: Figure, count: int) -> Figure:
        """What each of `count` more things cost, this being the run with them and `other` the one without."""
        return Figure((self.wall - other.wall) / count, (self.cpu - other.cpu) / count, self.mebibytes)


def once(command: Sequence[str], cwd: Path, environ: Mapping[str, str], expect: int = 0) -> Figure:
    """Run a command. RuntimeError with the end of its output when it ends with another exit code."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    with process.stdout as stream:
        output = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expect:
        said = output.decode(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return Figure(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def beside(
    commands: Sequence[Sequence[str]],
    cwd: Path,
    environ: Mapping[str, str],
    *,
    runs: int,
    warmup: int = 1,
    expect: int = 0,
) -> list[Figure]:
    """The medians of `runs` runs of each command, after `warmup` ones that do not count. They take turns, so that what
    else the machine does meets all of them.
    """
    for command in commands:
        for _ in range(warmup):
            once(command, cwd, environ, expect)
    turns = [[once(command, cwd, environ, expect) for command in commands] for _ in range(runs)]
    return [median(taken) for taken in zip(*turns, strict=True)]


def median(figures: Sequence[Figure]) -> Figure:
    """Each measure's own median."""
    return Figure(
        statistics.median(figure.wall for figure in figures),
        statistics.median(figure.cpu for figure in figures),
        statistics.median(figure.mebibytes for figure in figures),
    )
