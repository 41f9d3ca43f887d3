"""Child processes: bounded in time, in output, and in what they leave behind (docs/decisions/processes.md).

A child leads its own session. At the deadline or on a cancel its group gets TERM, then KILL, and so does whoever left
the group but still carries the operation's mark in its environment. The leader is reaped last, so that its group id
cannot be somebody else's by then. Output is read here, in the action's own thread; a grandchild that holds the pipe
does not hold the step.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runbook.contract import Context, PermanentError, TemporaryError

MARK = "RUNBOOK_OP"
"""Names the operation in the child's environment: it passes on to the whole tree, and outlives a killed runbook."""

HEAD = TAIL = 128 * 1024
PATIENCE = 0.25  # seconds between TERM and KILL: all must be over within a second of the deadline
LINGER = 0.25  # seconds for which an open pipe is still read after the leader has gone
LOGGED = 1024 * 1024  # bytes of live log lines per stream; the rest is only counted
LINE = 8 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """How a process ended. `rc`: 128 + n after signal n, as a shell says it. Text: UTF-8 with replacements, no NUL."""

    rc: int
    stdout: str
    stderr: str
    truncated: bool


class Stream:
    """One output: its head and its tail are kept, complete lines go to the log as they come, a read's at once."""

    def __init__(self, keep: int, log: Callable[[str], None] | None) -> None:
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._held = 0
        self._keep = keep
        self._log = log
        self._line = b""
        self._long = False  # the rest of a line that is not logged any more
        self._logged = 0
        self.dropped = 0

    def feed(self, chunk: bytes) -> None:
        self._lines(chunk)
        room = self._keep - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if not chunk:
            return
        self._tail.append(chunk)
        self._held += len(chunk)
        while self._held - len(self._tail[0]) >= self._keep:
            gone = self._tail.popleft()
            self._held -= len(gone)
            self.dropped += len(gone)

    def text(self) -> str:
        """What was kept, with a line in the middle that says how much was not."""
        self._lines(b"\n" if self._line else b"")
        tail = b"".join(self._tail)
        spare = max(0, len(tail) - self._keep)
        self.dropped += spare
        self._tail = deque([tail[spare:]])
        gap = f"\n[{self.dropped} bytes left out]\n".encode() if self.dropped else b""
        return decode(bytes(self._head) + gap + tail[spare:])

    def _lines(self, chunk: bytes) -> None:
        if self._log is None or not chunk or self._logged > LOGGED:
            return
        *lines, self._line = (self._line + chunk).split(b"\n")
        if self._long and lines:
            self._long = False
            del lines[0]
        if self._long:
            self._line = b""
        elif len(self._line) > LINE:
            lines.append(self._line)
            self._line, self._long = b"", True
        if not lines:
            return
        block = b"\n".join(_short(line) for line in lines)
        self._logged += len(block) + 1
        self._log(decode(block) if self._logged <= LOGGED else "[more output is not logged]")


def _short(line: bytes) -> bytes:
    return line.rstrip(b"\r") if len(line) <= LINE else line[:LINE] + "…".encode()


def decode(raw: bytes) -> str:
    """Bytes from the world as text that YAML, SQLite and a terminal can hold."""
    return raw.decode("utf-8", errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def run(
    ctx: Context,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    keep: int = HEAD,
    log: bool = True,
) -> Finished:
    """Run `argv` to its end, the deadline, or a cancel.

    `env` is added to `ctx.environ`; secrets belong there or in `stdin`, never in `argv`. `keep`: bytes of each output
    kept from its start and again from its end. `log`: each line also goes to the step's log. Raises PermanentError when
    it cannot be started, TemporaryError when the time is over. Any exit status is a result.
    """
    ctx.checkpoint()
    ended = reaped = False
    leash = threading.Lock()  # the group id is ours only while the leader is not reaped
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    try:
        child = _start(argv, {**ctx.environ, **(env or {}), MARK: ctx.op}, stdin is not None, cwd)
    except BaseException:
        os.close(wake_read)
        os.close(wake_write)
        raise

    stopped = threading.Event()  # before the signal: a process that obeys it at once may be gone before we wake up

    def cut() -> None:
        with leash:
            if not reaped:
                stopped.set()
                _signal_group(child.pid, signal.SIGTERM)
                with contextlib.suppress(OSError):
                    os.write(wake_write, b".")

    forget = ctx.on_stop(cut)
    try:
        ctx.note("process", {"pid": child.pid, "started": started(child.pid), "boot": boot()})
        streams = (Stream(keep, ctx.log if log else None), Stream(keep, ctx.log if log else None))
        if not _pump(child, streams, stdin, wake_read) or stopped.is_set():
            ctx.checkpoint()
            raise TemporaryError(f"{Path(argv[0]).name} was stopped")
        ended = True
        out, err = (stream.text() for stream in streams)
        with leash:
            reaped = True
            rc = child.wait()
        return Finished(rc if rc >= 0 else 128 - rc, out, err, any(stream.dropped for stream in streams))
    finally:
        forget()
        if not ended:
            end(child.pid, ctx.op)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with leash:
            reaped = True
            child.wait()
            os.close(wake_read)
            os.close(wake_write)


def _start(argv: Sequence[str], env: Mapping[str, str], feed: bool, cwd: Path | None) -> subprocess.Popen[bytes]:
    if cwd is not None and not cwd.is_dir():
        raise PermanentError(f"the working directory {cwd} does not exist")
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise PermanentError(f"{argv[0]}: not found", hint=f"install {argv[0]}, or put it on PATH") from None
    except ValueError:
        raise PermanentError("a command, its environment and its arguments cannot hold a NUL character") from None
    except OSError as failure:
        text = f"{argv[0]} could not be started: {os.strerror(failure.errno or 0)}"
        if failure.errno in (errno.EAGAIN, errno.ENOMEM, errno.ETXTBSY, errno.EMFILE, errno.ENFILE):
            raise TemporaryError(text) from None
        raise PermanentError(text) from None


def _pump(child: subprocess.Popen[bytes], streams: tuple[Stream, Stream], stdin: bytes | None, wake: int) -> bool:
    """Carry bytes until the leader has gone and the pipes are dry. False: it was woken to stop."""
    left = memoryview(stdin or b"")
    gone_at: float | None = None
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as ready:
        for pipe, stream in zip((child.stdout, child.stderr), streams, strict=True):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            ready.register(pipe, selectors.EVENT_READ, stream)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            ready.register(child.stdin, selectors.EVENT_WRITE)
        ready.register(wake, selectors.EVENT_READ, "wake")
        life = _life(child.pid, stack)
        if life is not None:
            ready.register(life, selectors.EVENT_READ, "life")
        while True:
            pipes = sum(isinstance(key.data, Stream) for key in ready.get_map().values())
            if gone_at is None and (life is None or not pipes) and _has_ended(child.pid):
                gone_at = time.monotonic()
            if gone_at is not None and (not pipes or time.monotonic() >= gone_at + LINGER):
                return True
            for key, _ in ready.select(_pause(gone_at, life)):
                if key.data == "wake":
                    return False
                if key.data == "life":
                    ready.unregister(key.fileobj)
                    gone_at = time.monotonic()
                elif key.data is None:
                    left = _write(ready, child, left)
                else:
                    _read(ready, key)


def _pause(gone_at: float | None, life: int | None) -> float | None:
    """How long to sleep in select, in seconds; None = until something happens."""
    if gone_at is not None:
        return max(0.0, gone_at + LINGER - time.monotonic())
    return None if life is not None else 0.02


def _read(ready: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    try:
        chunk = os.read(key.fd, 65536)
    except BlockingIOError:
        return
    if chunk:
        key.data.feed(chunk)
    else:
        ready.unregister(key.fileobj)


def _write(ready: selectors.BaseSelector, child: subprocess.Popen[bytes], left: memoryview) -> memoryview:
    assert child.stdin is not None
    try:
        left = left[os.write(child.stdin.fileno(), left[:65536]) :] if left else left
    except BlockingIOError:
        return left
    except OSError:  # it closed its stdin before it had read all: its right
        left = left[:0]
    if not left:
        ready.unregister(child.stdin)
        child.stdin.close()
    return left


def _life(pid: int, stack: contextlib.ExitStack) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    stack.callback(os.close, descriptor)
    return descriptor


def _has_ended(pid: int) -> bool:
    """Whether the leader is over, without reaping it: its group id stays its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def end(pid: int, op: str) -> None:
    """End the group of a leader that is not reaped yet: TERM, patience, KILL, then who left it but bears the mark."""
    _signal_group(pid, signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not _has_ended(pid):
        time.sleep(0.01)
    _signal_group(pid, signal.SIGKILL)
    for stray in marked(op):
        with contextlib.suppress(OSError):
            os.kill(stray, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, number)


def marked(op: str) -> list[int]:
    """Processes that carry the operation's mark in their environment, where /proc shows it (Linux)."""
    wanted = f"{MARK}={op}".encode()
    found = []
    proc = Path("/proc")
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def started(pid: int) -> str | None:
    """What tells a process from a later one of its id: its start in ticks since boot (proc(5), stat, field 22)."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:  # noqa: PTH123  # twice as fast, for each child
            return stat.read(4096).rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return None


@functools.cache
def boot() -> str | None:
    """This boot of this machine: a pid noted on another means nothing here."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None
