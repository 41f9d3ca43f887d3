"""The command line as a user has it: a process of its own, a home of its own, streams and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 180.0


@dataclass(frozen=True)
class Said:
    """What one command line did."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Commands:
    """Runs `runbook ...` in `folder`, with runs kept in `home`."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "RUNBOOK_HOME": str(self.home), "PYTHONIOENCODING": "utf-8", **self.environ, **(more or {})}

    def __call__(self, *words: str, stdin: str | None = None, environ: Mapping[str, str] | None = None) -> Said:
        """Run to the end."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "runbook.cli", *words],
            cwd=self.folder,
            env=self.variables(environ),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start, and leave it running; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "runbook.cli", *words],
            cwd=self.folder,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def write(self, name: str, text: str) -> str:
        """A file in the folder; its name."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return name


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> tuple[int, str, str]:
    """Send a signal and wait; exit code, stdout, stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@dataclass
class Screen:
    """A command on a pseudo-terminal: what it showed, and typing into it."""

    pid: int
    terminal: int
    shown: str = ""
    _read: int = 0

    @classmethod
    def start(cls, commands: Commands, *words: str, environ: Mapping[str, str] | None = None) -> Screen:
        """Start `runbook words` on a terminal of 100 x 30."""
        import fcntl
        import pty
        import struct
        import termios

        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(commands.folder)
            variables = {"TERM": "xterm-256color", **commands.variables(environ)}
            os.execve(sys.executable, [sys.executable, "-m", "runbook.cli", *words], variables)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        return cls(pid, terminal)

    def until(self, text: str, seconds: float = 20.0) -> None:
        """Read until `text` shows up after what was waited for before."""
        end_at = time.monotonic() + seconds
        while text not in self.shown[self._read :]:
            assert time.monotonic() < end_at, f"{text!r} never came; the screen has:\n{self.shown[-2000:]}"
            self._take(0.1)
        self._read = self.shown.index(text, self._read) + len(text)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def answer(self, *pairs: Sequence[str]) -> None:
        """Wait for a text, type a line; again and again."""
        for text, typed in pairs:
            self.until(text)
            self.type(typed)

    def end(self, seconds: float = 30.0) -> int:
        """Read to the end; the exit code."""
        end_at = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self._take(0.05)
            if done:
                break
            if time.monotonic() > end_at:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"it did not end; the screen has:\n{self.shown[-2000:]}")
        while self._take(0.05):
            pass
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)

    def _take(self, wait: float) -> bool:
        import select

        if not select.select([self.terminal], [], [], wait)[0]:
            return False
        try:
            content = os.read(self.terminal, 65536)
        except OSError:
            return False
        self.shown += content.decode("utf-8", "replace")
        return bool(content)
