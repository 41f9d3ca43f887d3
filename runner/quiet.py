"""The smallest event loop that carries Task, Future and gather: no clock, no selector, no threads.

The engine runs on it in turns: feed what arrived, run until nothing is ready, act on what was asked for.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any


class QuietLoop(asyncio.AbstractEventLoop):
    """Callbacks in the order in which they were made ready; nothing else ever happens."""

    def __init__(self) -> None:
        self._ready: collections.deque[asyncio.Handle] = collections.deque()
        self.crash: BaseException | None = None  # what a callback or a forgotten task raised: a bug

    def call_soon(  # type: ignore[override]  # the base class is generic in more than we need
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # as above
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.crash = self.crash or context.get("exception") or RuntimeError(str(context.get("message")))

    def run_until_quiet(self) -> None:
        """Run what is ready, and what becomes ready by it."""
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
