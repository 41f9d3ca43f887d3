"""A small `runbook.contract.Context` for tests of actions: a real deadline, everything else in memory.

with LocalContext(tmp_path, seconds=5) as ctx:
    outputs = call(shell.Run, {"command": ["true"]}, ctx)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from runbook.contract import Action, Change, Check, Opaque, Outputs, PermanentError, Read, TemporaryError
from runbook.runner.parameters import parse

T = TypeVar("T")

OP = f"run-1:step-{os.getpid()}"
"""Processes are found by it: tests that run side by side must not end each other's."""


class LocalContext:
    """One call's context. `seconds`: the deadline, enforced from another thread as the host does it.

    `stand_ins`: service -> address, as a sandbox replaces it. `refused`: what `permit` answers no to ("process" ...).
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float = 30.0,
        op: str = OP,
        environ: Mapping[str, str] | None = None,
        stand_ins: Mapping[str, str] | None = None,
        refused: tuple[str, ...] = (),
        notes: Mapping[str, Any] | None = None,
        attempt: int = 1,
        simulated: bool = False,
    ) -> None:
        self.op = op
        self.run_id = op.partition(":")[0]
        self.attempt = attempt
        self.folder = folder
        self.environ = dict(os.environ if environ is None else environ)
        self.simulated = simulated
        self.notes: dict[str, Any] = dict(notes or {})
        self.lines: list[str] = []
        self.steps: list[tuple[float, float]] = []
        self.permitted: list[tuple[str, str]] = []
        self.stopped = threading.Event()
        self._refused = refused
        self._stand_ins = dict(stand_ins or {})
        self._until = time.monotonic() + seconds
        self._cuts: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._kept: dict[str, bytes] = {}
        self._clients: dict[str, tuple[Any, Callable[[Any], None] | None]] = {}
        self._timer = threading.Timer(seconds, self.stop)
        self._timer.daemon = True

    def __enter__(self) -> LocalContext:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        for client, close in self._clients.values():
            if close is not None:
                close(client)

    def stop(self) -> None:
        """The deadline, or a cancel: everything that was registered is cut."""
        self.stopped.set()
        with self._lock:
            cuts = list(self._cuts)
        for cut in cuts:
            cut()

    def address(self, service: str, url: str) -> str:
        return self._stand_ins.get(service, url)

    def permit(self, what: str, target: str) -> None:
        if what in self._refused:
            raise PermanentError(f"{what} {target} is not answered by this sandbox")
        self.permitted.append((what, target))

    def remaining(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def checkpoint(self) -> None:
        if self.stopped.is_set() or self.remaining() <= 0:
            raise TemporaryError("the time is over")

    def sleep(self, seconds: float) -> None:
        self.stopped.wait(min(seconds, self.remaining()))
        self.checkpoint()

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._cuts.append(cut)
        if self.stopped.is_set():
            cut()

        def forget() -> None:
            with self._lock:
                if cut in self._cuts:
                    self._cuts.remove(cut)

        return forget

    def log(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: float, total: float) -> None:
        self.steps.append((done, total))

    def mask(self, text: str) -> str:
        return text

    def note(self, key: str, value: Any) -> None:
        self.notes[key] = value

    def keep(self, content: bytes) -> str:
        reference = f"kept-{len(self._kept)}"
        self._kept[reference] = content
        return reference

    def kept(self, reference: str) -> bytes:
        return self._kept[reference]

    def pinned(self, key: str, find: Callable[[], str]) -> str:
        return self.client(f"pinned {key}", find)

    def client(self, key: str, make: Callable[[], T], close: Callable[[T], None] | None = None) -> T:
        if key not in self._clients:
            self._clients[key] = (make(), close)
        found: T = self._clients[key][0]
        return found


def call(action: type[Action[Any]], given: Mapping[str, Any], ctx: LocalContext) -> Outputs:
    """One call as the host makes it: parse; for a Change observe, expect, apply unless already so, outputs."""
    one = action()
    args = parse(action, given)
    for problem in one.check(args):
        raise PermanentError(problem)
    if isinstance(one, Read | Check):
        return one.read(args, ctx)
    if isinstance(one, Opaque):
        return one.run(args, ctx)
    assert isinstance(one, Change)
    before = one.observe(args, ctx)
    after = one.expect(args, before, ctx)
    if before != after:
        one.apply(args, before, ctx)
    return one.outputs(args, before, after)
