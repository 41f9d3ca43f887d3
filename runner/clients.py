"""Connections that the actions of one run share; one that hangs is forgotten, and closed when nobody else uses it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 0.1  # seconds for a connection to close


@dataclass(eq=False, slots=True)
class _Client:
    value: Any
    close: Callable[[Any], None] | None
    users: set[object] = field(default_factory=set)
    poisoned: bool = False


class Clients:
    """The cache of one run. `user` is the call that holds a client; it is told by `leave` that the call is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._cached: dict[str, _Client] = {}
        self._used: dict[object, list[_Client]] = {}

    def get(self, user: object, key: str, make: Callable[[], Any], close: Callable[[Any], None] | None) -> Any:
        """The client of this key; made once, by the first who asks, while others of the same key wait."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                client = self._cached.get(key)
            if client is None:
                client = _Client(make(), close)
            with self._lock:
                self._cached[key] = client
                client.users.add(user)
                self._used.setdefault(user, []).append(client)
        return client.value

    def leave(self, user: object, *, poison: bool = False) -> None:
        """The call is over, or (poison) it hangs: its clients are forgotten, and closed unless others use them."""
        with self._lock:
            used = self._used.pop(user, [])
            if poison:
                for client in used:
                    client.poisoned = True
                self._cached = {key: client for key, client in self._cached.items() if not client.poisoned}
                self._making = {key: lock for key, lock in self._making.items() if key in self._cached}
            for client in used:
                client.users.discard(user)
            over = [client for client in used if client.poisoned and not client.users]
        for client in over:
            _close(client)

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            clients, self._cached = list(self._cached.values()), {}
        for client in clients:
            _close(client)


def _close(client: _Client) -> None:
    """In a thread of its own: what hung before may hang now, and nobody waits for it."""
    close, client.close = client.close, None
    if close is None:
        return

    def act() -> None:
        with contextlib.suppress(Exception):  # a broken connection may fail in any way when it is closed
            close(client.value)

    closing = threading.Thread(target=act, daemon=True, name="close")
    closing.start()
    closing.join(PATIENCE)
