"""Processes by identity: a pid alone is reused, a pid with its start time is not."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.interpreter.frozen import frozen


@frozen
class Identity:
    """Who a process is: comparable between processes and after it died."""

    host: str
    boot: str  # differs after a reboot: then nothing of before is alive
    pid: int
    start: str  # as the kernel tells it; '' where it cannot be told
    user: str


def me() -> Identity:
    """This process."""
    return Identity(os.uname().nodename, boot(), os.getpid(), started(os.getpid()), user())


def user() -> str:
    """Whose account this process runs under, or its number where the system has no name for it.

    Of root's by sudo, who called it (sudo(8): SUDO_USER): people who answer as root stay two people. No other account's
    variables are believed, and `$USER` never: anybody can set it.
    """
    uid, called_by = os.getuid(), os.environ.get("SUDO_USER", "")
    with contextlib.suppress(KeyError):
        if uid == 0 and called_by:
            return pwd.getpwnam(called_by).pw_name
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


@functools.cache
def boot() -> str:
    """An id of this boot of the machine, '' where there is none (only Linux tells it)."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def clock() -> float:
    """Seconds since boot, the same for all processes: what leases expire by, because nobody can set it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def started(pid: int) -> str:
    """When process `pid` was started, as an opaque text; '' when there is no such process (a zombie is none)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _started_by_ps(pid)
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name may hold blanks and brackets; proc(5): field 3 is the state
    return "" if fields[0] in "ZX" else fields[19]


def _started_by_ps(pid: int) -> str:
    """Where there is no /proc (macOS)."""
    argv = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False).stdout.strip()


def alive(pid: int, start: str) -> bool:
    """Whether this very process still lives."""
    return bool(start) and started(pid) == start


def end_noted(note: Any, op: str) -> bool:
    """End what an action noted as its process (`{"pid", "started", "boot"}`), its group too. True when it was alive.

    A note of another boot, or without a start time, names nobody for sure: it is left alone. Who left the
    group, or outlived its leader, is told by the mark of the operation in the environment (`RUNBOOK_OP`, Linux).
    """
    if not isinstance(note, Mapping) or not isinstance(note.get("pid"), int) or not note.get("started"):
        return False
    if note.get("boot") not in (None, boot()):
        return False
    ended = end(note["pid"], str(note["started"]))
    for orphan, start in _marked(op):
        ended = end(orphan, start) or ended
    return ended


def _marked(op: str) -> list[tuple[int, str]]:
    """Processes that carry the operation's mark; never ourselves, whoever started us."""
    found, mark = [], f"RUNBOOK_OP={op}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if pid != os.getpid() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((pid, started(pid)))
    return found


def end(pid: int, start: str, patience: float = 0.5) -> bool:
    """End the process group that `pid` leads (else the process alone): TERM, then KILL. True when it was alive.

    Does nothing when the pid belongs to somebody else by now.
    """
    if not alive(pid, start):
        return False
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, patience)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        until = time.monotonic() + wait
        while time.monotonic() < until:
            if not alive(pid, start):
                return True  # nothing more is sent to its number, which may be somebody else's from now on
            time.sleep(0.01)
    return True
