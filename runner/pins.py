"""What a name means for a whole run, resumed ones and its undo too: a kubeconfig's current context."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping


class Pins:
    """Found by the first who asks; then it is what it was. Thread-safe."""

    def __init__(self, known: Mapping[str, str] = {}, write: Callable[[str, str], None] | None = None) -> None:
        """`known`: what is on record. `write`: puts one on record; it never waits."""
        self._known = dict(known)
        self._write = write
        self._lock = threading.Lock()

    def get(self, key: str, find: Callable[[], str]) -> str:
        """What this key means. What `find` raises leaves it open."""
        with self._lock:
            if key not in self._known:
                self._known[key] = find()
                if self._write is not None:
                    self._write(key, self._known[key])
            return self._known[key]
