"""What an action gets from the host: `runbook.contract.Context`, for one call."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runbook.contract import PermanentError, TemporaryError
from runbook.runner import store
from runbook.runner.clients import Clients
from runbook.runner.pins import Pins
from runbook.runner.surroundings import Surroundings

if TYPE_CHECKING:
    from runbook.runner.secrets import Secrets

T = TypeVar("T")

NOTE_PATIENCE = 30.0  # seconds that a note may take to get on disk


class Outbox:
    """Where a call's notes and log lines go. The local runner's is its inbox; a preview's keeps nothing."""

    def note(self, op: str, key: str, value: Any) -> bool:
        """Make it durable; True when it is on disk. Blocks."""
        return True

    def log(self, key: str, text: str) -> None:
        """A masked line."""

    def progress(self, key: str, done: float, total: float) -> None:
        """How far it is."""


class HostContext:
    """One call's context. `stop` ends it from outside: at the deadline, or on a cancel."""

    def __init__(
        self,
        key: str,
        op: str,
        run_id: str,
        *,
        attempt: int,
        seconds: float,
        folder: Path,
        surroundings: Surroundings,
        secrets: Secrets,
        clients: Clients,
        pins: Pins,
        outbox: Outbox,
        notes: Mapping[str, Any],
        beside: Path | None = None,
    ) -> None:
        """`beside`: the folder of the playbook that calls, which a rehearsal may read."""
        self._key = key
        self._op = op
        self.run_id = run_id
        self.attempt = attempt
        self.folder = folder
        self.simulated = surroundings.simulated
        self.environ = surroundings.environ
        self._until = time.monotonic() + seconds
        self._surroundings = surroundings
        self._secrets = secrets
        self._clients = clients
        self._pins = pins
        self._outbox = outbox
        self._notes = dict(notes)
        self._beside = beside
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._cuts: dict[int, Callable[[], None]] = {}
        self._next = 0
        self.fence: Callable[[], None] | None = None  # the host's: raises where no effect may be made any more
        self.opened: Any = None  # the host's own: the action with its parameters, kept over the phases of the call

    @property
    def op(self) -> str:
        return f"{self.run_id}:{self._op}"

    def address(self, service: str, url: str) -> str:
        return self._surroundings.address(service, url)

    def permit(self, what: str, target: str) -> None:
        if not (what == "read" and self._is_near(Path(target))):
            self._surroundings.permit(what, target)

    def _is_near(self, path: Path) -> bool:
        return self._beside is not None and path.resolve().is_relative_to(self._beside.resolve())

    # -- time

    def until(self, seconds: float) -> None:
        """The host's: the call has so many seconds from now."""
        self._until = time.monotonic() + seconds

    def remaining(self) -> float:
        return 0.0 if self._stopped.is_set() else max(0.0, self._until - time.monotonic())

    def checkpoint(self) -> None:
        if self._stopped.is_set():
            raise TemporaryError("stopped")
        if time.monotonic() >= self._until:
            raise TemporaryError("the time is over")
        if self.fence is not None:
            self.fence()

    def sleep(self, seconds: float) -> None:
        self._stopped.wait(min(seconds, max(0.0, self._until - time.monotonic())))
        self.checkpoint()

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._next += 1
            number = self._next
            if not self._stopped.is_set():
                self._cuts[number] = cut
                return lambda: self._forget(number)
        cut()
        return lambda: None

    def _forget(self, number: int) -> None:
        with self._lock:
            self._cuts.pop(number, None)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> list[Callable[[], None]]:
        """End the call: what waits in it wakes. Returns what is to be cut, by a thread of its own."""
        with self._lock:
            self._stopped.set()
            cuts, self._cuts = list(self._cuts.values()), {}
        return [*cuts, lambda: self._clients.leave(self, poison=True)]

    def leave(self) -> None:
        """The call came back."""
        self._clients.leave(self, poison=self._stopped.is_set())

    # -- telling

    def log(self, text: str) -> None:
        self._outbox.log(self._key, str(self._secrets.mask(text)))

    def progress(self, done: float, total: float) -> None:
        self._outbox.progress(self._key, done, total)

    def mask(self, text: str) -> str:
        return str(self._secrets.mask(text))

    # -- remembering

    def note(self, key: str, value: Any) -> None:
        if self._stopped.is_set() or not self._outbox.note(self._op, key, self._secrets.seal(value)):
            raise TemporaryError(f"the note {key} could not be kept: the call is over")
        self._notes[key] = value

    @property
    def notes(self) -> Mapping[str, Any]:
        return self._notes

    def keep(self, content: bytes) -> str:
        sealed = self._secrets.encrypt(content)
        name = hashlib.sha256(sealed).hexdigest()
        kept = self.folder / "kept"
        kept.mkdir(mode=0o700, exist_ok=True)
        store.write_private(kept / name, sealed)
        return f"kept:{name}"

    def kept(self, reference: str) -> bytes:
        name = reference.removeprefix("kept:")
        try:
            sealed = (self.folder / "kept" / name).read_bytes() if name.isalnum() else b""
        except OSError as error:
            raise PermanentError(f"what was kept before the change cannot be read: {error.strerror}") from None
        if hashlib.sha256(sealed).hexdigest() != name:
            raise PermanentError("what was kept before the change is damaged")
        return self._secrets.decrypt(sealed)

    def pinned(self, key: str, find: Callable[[], str]) -> str:
        self.checkpoint()
        return self._pins.get(key, find)

    def client(self, key: str, make: Callable[[], T], close: Callable[[T], None] | None = None) -> T:
        self.checkpoint()
        value: T = self._clients.get(self, key, make, close)
        return value


def cut_all(cuts: list[Callable[[], None]]) -> None:
    """Run all that a stopped call registered, one after the other."""
    for cut in cuts:
        cut_off(cut)


def cut_off(cut: Callable[[], None]) -> None:
    """Run what a stopped call registered, one thing of it: it may fail in any way, and hang."""
    with contextlib.suppress(Exception):
        cut()
