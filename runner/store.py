"""Where runs live: one private folder each, under one private home."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from runbook.interpreter.errors import InvalidError, RefusedError
from runbook.interpreter.frozen import frozen

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"  # in the order in which text sorts
MOMENT = len("20260115-033012")
_OPEN = stat.S_IRWXG | stat.S_IRWXO


@frozen
class RunFolder:
    """One run on disk."""

    id: str
    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def kept(self) -> Path:
        """Encrypted bytes that changes kept for their inverses."""
        return self.path / "kept"


def home(environ: Mapping[str, str]) -> Path:
    """RUNBOOK_HOME, else XDG_STATE_HOME/runbook, else ~/.local/state/runbook (XDG Base Directory Specification)."""
    if environ.get("RUNBOOK_HOME"):
        return Path(environ["RUNBOOK_HOME"]).absolute()
    state = environ.get("XDG_STATE_HOME", "")
    if not Path(state).is_absolute():  # a relative path there is to be ignored
        state = str(Path(environ.get("HOME") or Path("~").expanduser()) / ".local" / "state")
    return Path(state) / "runbook"


class Store:
    """All runs of one home. The folder is made, or checked, when something is first written or read."""

    def __init__(self, folder: Path) -> None:
        self.home = folder

    @property
    def _runs(self) -> Path:
        return self.home / "runs"

    @property
    def locks(self) -> Path:
        """The file of the named locks."""
        return self.home / "locks.db"

    @property
    def key_file(self) -> Path:
        """The key that sealed values are encrypted with."""
        return self.home / "key"

    def prepare(self) -> None:
        """Make the private folders, or check that they are private (0700, ours). RefusedError says what is wrong."""
        with self._writable():
            if not self.home.is_dir():
                self.home.mkdir(parents=True, mode=0o700, exist_ok=True)
            private(self.home, ours=self._runs.name)
            if not self._runs.is_dir():
                self._runs.mkdir(mode=0o700, exist_ok=True)
            private(self._runs)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """A home that cannot be written is a sentence before anything is run, not a bug."""
        try:
            yield
        except OSError as error:
            raise RefusedError(
                f"runs cannot be kept in {self.home}: {error.strerror}",
                "make it writable, or set RUNBOOK_HOME to another folder",
            ) from error

    def new_run(self, name: str) -> RunFolder:
        """A folder for a new run of the playbook `name`: `20260115-033012-emergency-rollback-x7f`, the time in UTC."""
        self.prepare()
        with self._writable():
            return self._new_run(name)

    def _new_run(self, name: str) -> RunFolder:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
        while True:
            now = time.time()
            moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
            tail = _within_second(now) + _ALPHABET[os.urandom(1)[0] % len(_ALPHABET)]
            folder = RunFolder(f"{moment}-{slug}-{tail}", self._runs / f"{moment}-{slug}-{tail}")
            with contextlib.suppress(FileExistsError):
                folder.path.mkdir(mode=0o700)
                break
        folder.artifacts.mkdir(mode=0o700)
        folder.logs.mkdir(mode=0o700)
        _sync(self._runs)
        return folder

    def runs(self) -> list[RunFolder]:
        """All runs, oldest first."""
        if not self._runs.is_dir():
            return []
        private(self._runs)
        paths = sorted(self._runs.iterdir(), key=lambda path: (path.name[:MOMENT], path.name.rpartition("-")[2]))
        return [RunFolder(path.name, path) for path in paths if (path / "journal.db").exists()]

    def torsos(self) -> list[RunFolder]:
        """Folders of runs that ended before there was a journal."""
        if not self._runs.is_dir():
            return []
        paths = sorted(path for path in self._runs.iterdir() if path.is_dir())
        return [RunFolder(path.name, path) for path in paths if not (path / "journal.db").exists()]

    def find(self, prefix: str) -> RunFolder:
        """The run of this id, or the one whose id begins or ends so; `last`: the newest. InvalidError otherwise."""
        runs = self.runs()
        if prefix == "last":
            if not runs:
                raise InvalidError("there is no run yet", hint=f"they are kept in {self.home}")
            return runs[-1]
        found = [run for run in runs if run.id == prefix]
        if prefix and not found:
            found = [run for run in runs if run.id.startswith(prefix) or run.id.endswith(f"-{prefix}")]
        if not found:
            raise InvalidError(f"there is no run {prefix}", hint=f"`runbook runs` lists those in {self.home}")
        if len(found) > 1:
            names = ", ".join(run.id for run in found[:5]) + (", ..." if len(found) > 5 else "")
            raise InvalidError(f"{prefix} fits {len(found)} runs: {names}", hint="give more of the id")
        check_private(found[0].path)
        return found[0]


def _within_second(now: float) -> str:
    """Where in its second a moment lies, in two characters that sort as time does: `last` is the newest run."""
    share = int(now % 1 * len(_ALPHABET) ** 2)
    return _ALPHABET[share // len(_ALPHABET)] + _ALPHABET[share % len(_ALPHABET)]


def private(path: Path, ours: str | None = None) -> None:
    """A folder of ours that only its owner may enter. An open one is closed if it is plainly ours, else refused.

    `ours`: the name of something that marks an existing folder as ours (an empty one is ours too).
    """
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is not a folder of yours", "set RUNBOOK_HOME to one that is")
    if not found.st_mode & _OPEN:
        return
    plainly = ours is None or (path / ours).is_dir() or not any(path.iterdir())
    if not plainly or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(
            f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            f"`chmod 700 {shlex.quote(str(path))}` if it is only for runbook, or set RUNBOOK_HOME to another folder",
        )
    path.chmod(0o700)


def check_private(path: Path) -> None:
    """The run's folder and journal belong to us and to nobody else."""
    private(path)
    journal = path / "journal.db"
    found = os.lstat(journal)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise RefusedError(f"{journal} is not a file of yours")
    if found.st_mode & _OPEN:
        journal.chmod(0o600)


def write_private(path: Path, content: bytes) -> None:
    """A file of mode 0600, complete or not there, on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
