"""Injected faults: which request is hit, and by what. Counting is exact, whatever thread a request comes in."""

from __future__ import annotations

import contextlib
import fnmatch
import re
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

FOREVER = 3600.0
"""Seconds that `hang: true` means; nothing here is unbounded."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a scenario (schemas/scenario.schema.json, `fault`). Exactly one of the effects is set."""

    on: str
    verb: str | None = None
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None
    path: str | None = None
    dry_run: bool | None = None
    nth: int = 1
    times: int | None = None
    answer: int | str | None = None
    retry_after: float | None = None
    message: str | None = None
    hang: float | None = None
    drip: bool = False
    reset: bool = False
    lose_answer: bool = False
    latency: float | None = None

    def fits(self, request: Request) -> bool:
        """Whether it is about such a request."""
        return (
            self.on == request.on
            and self.verb in (None, request.verb)
            and self.resource in (None, request.resource)
            and self.namespace in (None, request.namespace)
            and (self.name is None or fnmatch.fnmatchcase(request.name, self.name))
            and self.dry_run in (None, request.dry_run)
            and (self.path is None or re.search(self.path, request.path) is not None)
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What faults are matched against."""

    on: str
    verb: str
    path: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    dry_run: bool = False


class Faults:
    """The faults of a scenario, and how often each was met."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._met = [0] * len(faults)
        self._lock = threading.Lock()

    def strike(self, request: Request) -> Fault | None:
        """The fault that hits this request, if any. Each that fits counts it."""
        hit: Fault | None = None
        with self._lock:
            for index, fault in enumerate(self._faults):
                if not fault.fits(request):
                    continue
                self._met[index] += 1
                past = self._met[index] - fault.nth
                if hit is None and past >= 0 and (fault.times is None or past < fault.times):
                    hit = fault
        return hit


def cut(connection: socket.socket) -> None:
    """End a connection with a reset, as a crashed server would."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close(connection)


def close(connection: socket.socket) -> None:
    """Close, whatever state it is in."""
    with contextlib.suppress(OSError):
        connection.close()
