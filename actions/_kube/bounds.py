"""How long a request may take, and how it is cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Bounds(Protocol):
    """What a request needs of a `Context`: how long it may take, and how it is cut."""

    def remaining(self) -> float: ...
    def checkpoint(self) -> None: ...
    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]: ...


class Within:
    """Bounds for code that has no context (the secrets' resolver): a number of seconds for each request, all of it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def remaining(self) -> float:
        """Seconds for the next request."""
        return self._seconds

    def checkpoint(self) -> None:
        """Nobody cancels."""

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        """Cut it when its seconds are over: a client's own time-out is none against a server that drips."""
        timer = threading.Timer(self._seconds, cut)
        timer.daemon = True
        timer.start()
        return timer.cancel


def pause(bounds: Bounds, seconds: float) -> None:
    """Wait; a stop ends it, and `checkpoint` says so."""
    woken = threading.Event()
    forget = bounds.on_stop(woken.set)
    try:
        woken.wait(seconds)
    finally:
        forget()
    bounds.checkpoint()
