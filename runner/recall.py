"""The engine's effects where nothing is done and every answer is on record: a run that has ended, as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, TypeVar

from runbook.interpreter.effects import Box, Call, Question, Record, SecretRef, StopKind
from runbook.interpreter.errors import InternalError
from runbook.runner.quiet import QuietLoop
from runbook.runner.records import Past

T = TypeVar("T")


class Recall:
    """A replay that only looks. What is not on record is an InternalError: the journal does not fit its playbook."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self._loop = QuietLoop()

    def play(self, main: Coroutine[Any, Any, T]) -> T:
        """Play it to its end."""
        task = self._loop.spawn(main)
        self._loop.run_until_quiet()
        if self._loop.crash is not None:
            raise self._loop.crash
        return task.result()

    # -- Effects

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return self._loop.spawn(work)

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        return self._answer("start", key)

    async def call(self, call: Call, box: Box) -> Record:
        return self._answer("call", call.key)

    async def ask(self, question: Question, box: Box) -> Record:
        return self._answer("ask", question.key)

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        return self._answer("sleep", key)

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        return self._answer("lock", key)

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        return self._answer("unlock", key)

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        return self._answer("secrets", key)

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        box.stopped = self._past.stops.get(box.key, kind)

    def opened(self, box: Box) -> None:
        if box.stopped is None and box.key in self._past.stops:
            box.stopped = self._past.stops[box.key]

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        """It is on record, or told nobody."""

    def _answer(self, question: str, key: str) -> Record:
        found = self._past.answer(question, key)
        if found is None:
            raise InternalError(
                f"{key or 'the run'}: the journal does not say how it went: nothing was touched",
                "this journal was not written by this playbook and this version of runbook",
            )
        return found
