"""ansible-core and go-task, installed once into a cache of the benchmark's own; absent ones are said to be absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ANSIBLE = "ansible-core>=2.18,<2.20"
TASK = "github.com/go-task/task/v3/cmd/task@v3.44.1"


@dataclass(frozen=True, slots=True)
class Rivals:
    """The programs to measure beside; None where one cannot be had on this machine."""

    ansible: Path | None
    task: Path | None


def cache() -> Path:
    """Where the rivals live: RUNBOOK_BENCH, else the user's cache folder."""
    base = os.environ.get("RUNBOOK_BENCH")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "runbook-bench"


def provide() -> Rivals:
    """Install what is missing; what cannot be installed is left out and named on stderr."""
    return Rivals(_ansible(cache() / "ansible"), _task(cache() / "bin"))


def _ansible(folder: Path) -> Path | None:
    program = folder / "bin" / "ansible-playbook"
    if not program.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not _done([sys.executable, "-m", "venv", str(folder)]) or not _done(
            [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", ANSIBLE]
        ):
            print("ansible-core could not be installed: its figures are missing", file=sys.stderr)
            return None
    return program


def _task(folder: Path) -> Path | None:
    program = folder / "task"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        go = shutil.which("go")
        if go is None or not _done([go, "install", TASK], GOBIN=str(folder)):
            print("go-task could not be built (it needs Go): its figures are missing", file=sys.stderr)
            return None
    return program


def _done(command: list[str], **environ: str) -> bool:
    return (
        subprocess.run(command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
