"""The engine's effects where nothing is done and every answer is unknown: which calls may a run make, and with what?"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from runbook.contract import Action
from runbook.interpreter.effects import Box, Call, Question, Record, SecretRef, Status, StopKind
from runbook.interpreter.unknown import Unknown, likely, why_unknown
from runbook.runner.quiet import QuietLoop
from runbook.runner.secret_looks import Wanted

if TYPE_CHECKING:
    from runbook.interpreter.engine import RunInfo
    from runbook.interpreter.model import Playbook
    from runbook.runner.host import Host

T = TypeVar("T")

MANY = 1000
"""Calls that are collected: a loop over more of them is not walked to its end."""
SECONDS = 1.0
"""For what a walk does itself: nothing of it waits for anybody."""
PURE = frozenset({"flow.set", "flow.assert"})
"""What a walk can do as well as a run."""


class _EnoughError(Exception):
    """The walk ends here."""


class Walk:
    """One walk. `calls`: those whose actions look ahead, in the run's order."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = QuietLoop()
        self._seq = 0
        self._brought = False
        self.calls: list[Call] = []
        self.secrets_wanted: list[Wanted] = []  # that must be there
        self.behind: set[str] = set()  # operations behind one that may bring what they miss
        self.whole = True  # False: there are more calls than MANY
        self.skipped: set[str] = set()  # keys of steps that are not needed

    def through(self, playbook: Playbook, inputs: Mapping[str, Any], info: RunInfo) -> None:
        """Play it. What an expression gets wrong ends the walk where it would end the run."""
        from runbook.interpreter.engine import Engine

        self._loop.spawn(Engine(playbook, dict(inputs), info, self).run())
        self._loop.run_until_quiet()
        if self._loop.crash is not None and not isinstance(self._loop.crash, _EnoughError | Unknown.Reached):
            raise self._loop.crash

    # -- Effects

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return self._loop.spawn(work)

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        return self._record("running")

    async def call(self, call: Call, box: Box) -> Record:
        if call.inverse:
            return self._record()
        call = replace(call, args=likely(call.args))
        if call.action in PURE and why_unknown(call.args) is None:
            result = self._host.perform(call, self._host.context(call, SECONDS))
            return self._record("succeeded" if result.ok else "failed", outputs=result.outputs, error=result.error)
        if len(self.calls) >= MANY:
            self.whole = False
            raise _EnoughError
        kind = self._host.registry.find(call.action)
        if self._brought:
            self.behind.add(call.op)
        if looks_ahead(kind):
            self.calls.append(call)
        self._brought = self._brought or kind.brings
        return self._record(outputs=Unknown(f"the run of {call.step}"), changed=call.effect == "change")

    async def ask(self, question: Question, box: Box) -> Record:
        return self._record(outputs=Unknown(f"the answer to {question.step}"))

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        return self._record()

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        return self._record()

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        return self._record()

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        """None is looked up now: what must be there is, and of the optional ones only an environment variable can
        tell."""
        at = key.partition("@")[0].strip("/")
        self.secrets_wanted += [Wanted(at, ref) for ref in refs if not ref.optional]
        environ = self._host.surroundings.environ
        there = {ref.name: not ref.optional or ref.kind != "env" or bool(environ.get(str(ref.where))) for ref in refs}
        return self._record(outputs=there)

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        box.stopped = kind

    def opened(self, box: Box) -> None:
        """Nothing is on record."""

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        if kind == "step.ended" and data.get("status") == "skipped":
            self.skipped.add(key)

    def _record(self, status: Status = "succeeded", **more: Any) -> Record:
        self._seq += 1
        return Record(self._seq, 0.0, 0.0, status=status, sure=False, **more)


def looks_ahead(kind: type[Action[Any]]) -> bool:
    """Whether an action has anything to look for before a run."""
    own = kind.preflight is not Action.preflight or kind.needs is not Action.needs
    return own or kind.extra is not None
