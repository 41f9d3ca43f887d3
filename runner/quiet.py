"""The smallest loop that carries tasks and futures: no clock, no selector, no threads, no cancellation.

The engine runs on it in turns: feed what arrived, run until nothing is ready, act on what was asked for. It is not
asyncio, which would need a good part of a cold start to be imported and of which nothing else would be used.
"""

from __future__ import annotations

import collections
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Future(Generic[T]):
    """A value that is there later. Whoever awaits it goes on in the order in which they came."""

    __slots__ = ("_done", "_loop", "_value", "_waiting")

    def __init__(self, loop: QuietLoop) -> None:
        self._loop = loop
        self._done = False
        self._waiting: list[Task[Any]] = []

    def done(self) -> bool:
        return self._done

    def result(self) -> T:
        """The value. RuntimeError while it is not there."""
        if not self._done:
            raise RuntimeError("the value is not there yet")
        return self._value

    def set_result(self, value: T) -> None:
        """Here it is. RuntimeError the second time."""
        if self._done:
            raise RuntimeError("the value was there already")
        self._value: T = value
        self._done = True
        self._loop.ready.extend(self._waiting)
        self._waiting.clear()

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self._done:
            yield self
        return self.result()


class Task(Future[T]):
    """A coroutine on its way; its value is what it returns. What it raises is a bug, and ends the run."""

    __slots__ = ("_coroutine",)

    def __init__(self, loop: QuietLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__(loop)
        self._coroutine = coroutine

    def go_on(self) -> None:
        """Run it until it waits for a future of this loop, or ends."""
        try:
            waits_for: Future[Any] = self._coroutine.send(None)
        except StopIteration as end:
            self.set_result(end.value)
        except BaseException as error:  # noqa: BLE001  # raised by whoever drives the loop
            self._loop.crash = self._loop.crash or error
        else:
            waits_for._waiting.append(self)


class QuietLoop:
    """Tasks in the order in which they were made ready; nothing else ever happens."""

    def __init__(self) -> None:
        self.ready: collections.deque[Task[Any]] = collections.deque()
        self.crash: BaseException | None = None  # what a task raised: a bug

    def future(self) -> Future[Any]:
        return Future(self)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """A new task; it begins behind what is ready now."""
        task = Task(self, coroutine)
        self.ready.append(task)
        return task

    def run_until_quiet(self) -> None:
        """Run what is ready, and what becomes ready by it."""
        while self.ready and self.crash is None:
            self.ready.popleft().go_on()
