"""Unwinding: what happens when a scope ends. Failure, time-out and cancel alike: undo, on_failure, temporary, finally.

Every phase has its own time and hangs from `hard`: neither a deadline nor a first cancel reaches it. It runs whatever
the one before it did. What a second cancel skips or cuts stays on a list, for `resume`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from runbook.interpreter.changes import Done
from runbook.interpreter.effects import Box, Fault
from runbook.interpreter.frozen import frozen
from runbook.interpreter.model import OnFailure, Playbook, Step
from runbook.interpreter.outcome import Outcome, failure_view, stopped
from runbook.interpreter.scope import Scope, all_of, ids_of
from runbook.interpreter.undo import Playback
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.worst_case import undoing

if TYPE_CHECKING:
    from runbook.interpreter.run import Run

PhaseName = Literal["undo", "on_failure", "temporary", "finally"]
Play = Callable[[str, Box], Awaitable[Outcome]]


@frozen
class Handlers:
    """What a scope says about its end. `cleanup`: seconds for each phase."""

    of: Step | Playbook
    on_failure: OnFailure
    finally_: tuple[Step, ...]
    cleanup: float


@frozen
class Left:
    """A phase that a second cancel skipped or cut. `seq` orders them as they would have run."""

    seq: int
    path: str
    phase: PhaseName
    cleanup: float
    steps: tuple[Step, ...] = ()
    scope: Scope | None = None

    @property
    def key(self) -> str:
        """The phase's key."""
        return f"{self.path}!{self.phase}"


class Unwinding:
    """The end of one scope."""

    def __init__(self, run: Run, path: str, cleanup: float, out: Outcome) -> None:
        self.run = run
        self.path = path
        self.cleanup = cleanup
        self.out = out
        self.faults: list[tuple[Fault, Outcome]] = []
        self.ended = out.at
        self.undone = "none"
        self.played = out.unwound
        self.open = out.open

    async def phase(
        self,
        name: PhaseName,
        play: Play,
        steps: tuple[Step, ...] = (),
        scope: Scope | None = None,
        *,
        least: float = 0.0,
    ) -> Outcome:
        """One phase, in a box of its own; of at least so many seconds."""
        length = max(self.cleanup, least)
        key = f"{self.path}!{name}"
        begun = await self.run.fx.start(key, self.run.hard, {"id": name, "kind": "phase", "name": name, "action": ""})
        if begun.by is not None:
            out = stopped(begun, "skipped by a second cancel")
        else:
            room = self.run.box(key, self.run.hard, begun.at + length)
            self.played = True
            out = await play(key, room)
            self.open = self.open or out.open
            if out.by == key:
                out = replace(out, by=None, error=not_done(length, out.error))
            self.run.fx.emit(
                "step.ended",
                key,
                {
                    "id": name,
                    "kind": "phase",
                    "name": name,
                    "status": out.status,
                    "tolerated": False,
                    "error": None,
                    "outputs": {},
                    "attempts": 1,
                    "started": begun.wall,
                    "duration": max(0.0, out.at - begun.at),
                },
            )
        if out.by is not None:
            self.run.left.append(Left(begun.seq, self.path, name, length, steps, scope))
        self.ended = max(self.ended, out.at, begun.at)
        if not out.ok:
            message = out.error.message if out.error is not None else out.status
            fault = replace(out.error or Fault(""), message=f"{name}: {message}")
            self.faults.append((fault, out))
        return out

    def failure(self) -> dict[str, Any]:
        """`failure`, as the next handler sees it; `others` also of the handlers further in."""
        return failure_view(self.out, self.undone, (*self.out.others, *(fault for fault, _ in self.faults)))

    def result(self) -> Outcome:
        """The scope's outcome. A failed handler never hides the first failure, and fails a scope that succeeded."""
        others = (*self.out.others, *(fault for fault, _ in self.faults))
        undone = self.out.undone or self.undone == "succeeded"
        out = replace(self.out, others=others, at=self.ended, undone=undone, unwound=self.played, open=self.open)
        if self.faults and self.out.ok:
            fault, bad = self.faults[0]
            kind = "failed" if bad.kind == "none" else bad.kind
            return replace(
                out, status="failed", error=fault, kind=kind, step=bad.step, path=bad.path, seq=bad.seq, tolerated=False
            )
        return out


def not_done(cleanup: float, why: Fault | None) -> Fault:
    """A phase's time is over. `why`: what held it up, where an action could say."""
    said = f": {why.message}" if why is not None and why.hint is not None else ""
    return Fault(f"not done in the {cleanup:g}s of cleanup{said}", kind="timeout", hint=why.hint if why else None)


async def unwind(
    run: Run,
    handlers: Handlers,
    path: str,
    scope: Scope,
    out: Outcome,
    *,
    undo: bool = False,
    view: dict[str, Any] | None = None,
) -> Outcome:
    """The phases of the scope at `path`, innermost scope first. `undo`: a person asked for it. `view`: of the step."""
    end = Unwinding(run, path, handlers.cleanup, out)
    if not out.ok and (handlers.on_failure.undo or undo):
        changes = run.log.within(path)
        if changes:
            undone = await end.phase(
                "undo",
                lambda key, room: Playback(run, path, True, scope.held).play(changes, key, room),
                least=needed(changes, scope.book.playbook),
            )
            end.undone = "succeeded" if undone.ok else "failed"
            if view is not None:  # the step's own handlers see it
                view["undone"] = undone.ok
    foreseen = out.ok and not out.sure  # a plan: how it would end is open to its handlers, and to nobody after them
    doubted = scope.frame.doubt(_steps(handlers.of)) if foreseen else {}
    await _on_failure(end, handlers, scope)
    await _returns(end, scope)
    if handlers.finally_:
        failure: Any = end.failure()
        if foreseen:
            failure = Unknown(f"whether {path or 'the run'} fails", likely=failure)
        inner = scope.naming(failure=failure)
        await end.phase("finally", handler(run, handlers.finally_, inner, handlers.cleanup), handlers.finally_, inner)
    scope.frame.settle(doubted)
    return end.result()


def _steps(of: Step | Playbook) -> Iterable[str]:
    return ids_of(of) if isinstance(of, Playbook) else all_of(of)


async def give_back(run: Run, cleanup: float, path: str, out: Outcome, scope: Scope) -> Outcome:
    """Only the temporary changes: the end of an iteration, which has no handlers."""
    if not run.log.open(path):
        return out
    end = Unwinding(run, path, cleanup, out)
    await _returns(end, scope)
    return end.result()


async def looked(run: Run, path: str, box: Box, out: Outcome) -> Outcome:
    """Work that succeeded, unless it was stopped while clean-up inside it was played: a stop waits for clean-up."""
    if not out.unwound or not out.ok:
        return out
    record = await run.fx.sleep(f"{path}!end", 0.0, box)
    out = replace(out, unwound=False, at=max(out.at, record.at), wall=max(out.wall, record.wall))
    if record.by is None:
        return out
    return replace(stopped(record), outputs=out.outputs, others=out.others, at=out.at, wall=out.wall)


async def _on_failure(end: Unwinding, handlers: Handlers, scope: Scope) -> None:
    steps = handlers.on_failure.steps
    if not steps or (end.out.ok and end.out.sure):
        return
    if end.out.ok:  # a plan shows what would run if it turned out otherwise
        unknown = scope.perhaps().naming(failure=Unknown(f"whether {end.path or 'the run'} fails"))
        await end.phase("on_failure", handler(end.run, steps, unknown, end.cleanup))
        end.faults.clear()
        return
    inner = scope.naming(failure=end.failure())
    await end.phase("on_failure", handler(end.run, steps, inner, end.cleanup), steps, inner)


async def _returns(end: Unwinding, scope: Scope) -> None:
    changes = end.run.log.open(end.path)
    if changes:
        run = end.run
        await end.phase(
            "temporary",
            lambda key, room: Playback(run, end.path, False, scope.held).play(changes, key, room),
            least=needed(changes, scope.book.playbook),
        )


def needed(changes: Sequence[Done], playbook: Playbook) -> float:
    """Seconds that it may take to play these back, where nobody said how long: of a foreach that is known only now."""
    if not playbook.cleanup_open:
        return 0.0
    made = [done.step or (done.returns.step if done.returns is not None else None) for done in changes]
    return undoing(tuple(step for step in made if step is not None))


def handler(run: Run, steps: tuple[Step, ...], scope: Scope, cleanup: float) -> Play:
    """A handler's steps. A handler is a scope too: what is temporary in it ends with it."""

    async def play(key: str, room: Box) -> Outcome:
        out = await run.sequence(steps, scope, key, room)
        return await give_back(run, cleanup, key, out, scope)

    return play
