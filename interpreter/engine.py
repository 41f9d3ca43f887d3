"""The meaning of a playbook: one recursive function over Step. No I/O, no clock, no timers, no cancelled tasks.

Four ideas carry it.
1. Outcomes are values. Nothing that a playbook, the world or a person does is an exception.
2. A Box is the only thing that stops work, and it is data. Clean-up hangs from `@hard`, not from the work, so nothing
   needs a shield.
3. A stop is *seen* in two places only, a step's start record and a leaf's record; a stop that the engine itself decides
   is recorded before it acts; time enters by the same records. So replay is a lookup by key.
4. `Outcome.by` names the box that stopped the work. Only the step that owns this box may swallow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

from runbook.interpreter import events, gather, lane, playing
from runbook.interpreter.attempts import act
from runbook.interpreter.changes import Done, plain
from runbook.interpreter.effects import Box, Effects, Fault, Record
from runbook.interpreter.expressions import ExpressionError, decide, evaluate
from runbook.interpreter.model import (
    Action,
    Block,
    Choose,
    Fallback,
    Foreach,
    Parallel,
    Playbook,
    Step,
    SubPlaybook,
    Template,
    Tolerance,
)
from runbook.interpreter.outcome import TIME_OVER, Outcome, failed, stopped
from runbook.interpreter.rounds import Rounds
from runbook.interpreter.scope import RunInfo, Scope, all_of, seconds
from runbook.interpreter.times import Duration
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.unwind import Handlers, looked, unwind

__all__ = ["Done", "Engine", "Outcome", "RunInfo"]


class Engine(Rounds):
    """A run of a playbook. `fx` is the world; all else is decided here.

    After `run` (a replay, where the run was before) come rounds: `undo(n)` plays the whole log back, `finish(n)` what a
    second cancel left of the clean-up. n counts from 1 and makes their keys.
    """

    def __init__(
        self, playbook: Playbook, inputs: Mapping[str, Any], info: RunInfo, fx: Effects, *, interactive: bool = False
    ) -> None:
        super().__init__(info, fx, interactive=interactive)
        self.playbook = playbook
        self.scope = playing.root(playbook, inputs, info)
        self._ended: dict[str, Outcome] = {}  # steps of handlers: what `finish` need not repeat

    async def run(self, refused: Fault | None = None) -> Outcome:
        """The whole run: locks, vars, secrets, steps, handlers, notifications, outputs.

        `refused`: why nothing may be begun (preflight): the handlers tell people, and that is all.
        """
        for box in (self.work, self.hard, self.lane):
            self.fx.opened(box)
        begun = await self.fx.start(
            "", self.work, {"id": "", "kind": "playbook", "name": self.playbook.name, "action": ""}
        )
        if begun.by is not None:
            return stopped(begun, "not started")
        if not begun.sure:
            self.scope = replace(self.scope, book=self.scope.book.foreseen())
        try:
            self.scope = await playing.prepared(self, self.scope, self.work, begun, refused=refused is not None)
            locks = playing.known_locks(self.scope, begun.at)
        except playing.Unprepared as unprepared:
            return await self._unbegun(unprepared.out, unprepared.scope)
        except ExpressionError as error:
            return await self._closed(failed(error.message, begun), ())
        if refused is not None:
            return await self._unbegun(replace(failed(refused, begun), kind="refused"), self.scope)
        if locks:
            record = await self.fx.lock("@run", locks, self.work, first=True)
            if record.by is not None:
                return stopped(record)
            if record.status != "succeeded":
                held = failed(record.error or Fault("a lock is held", kind="lock"), record)
                return replace(held, kind="refused")
        self.scope = self.scope.holding(playing.lock_names(self.playbook.locks, self.scope.at(begun.at)))
        return await self._closed(await playing.played(self, self.scope, self.work), locks)

    async def _unbegun(self, out: Outcome, scope: Scope | None) -> Outcome:
        """Refused by preflight, or for want of a secret. A held lock is not meant: who holds it tells."""
        if scope is not None and out.by is None and playing.tells(self.playbook):
            self.scope = scope
            if out.error is not None and out.error.kind == "refused":
                out = replace(out, kind="refused")
            out = await playing.told(self, scope, out)
        return await self._closed(out, ())

    async def _closed(self, out: Outcome, locks: tuple[str, ...]) -> Outcome:
        await lane.joined(self)
        if locks:
            await self.fx.unlock("@run", locks)
        first = self.log.first_effect()
        refused = out.seq in self.asserted or (out.error is not None and out.error.kind == "refused")
        if out.kind == "failed" and refused and (first is None or out.seq < first):
            out = replace(out, kind="refused")
        return replace(out, outputs=playing.outputs(self, self.scope, out))

    # --- one step ---------------------------------------------------------------------------------------------------

    async def execute(
        self, step: Step, scope: Scope, path: str, box: Box, *, gate: Box | None = None, alternative: bool = False
    ) -> Outcome:
        """Joins -> start record -> when -> locks -> box -> body -> unwinding -> swallow? See Run.execute."""
        if self.finishing and (earlier := self._ended.get(plain(path))) is not None:
            return earlier
        late = await self._joined(step, scope)
        if late is not None:
            return late
        begun = await self.fx.start(path, gate or box, events.begun(step, scope))
        if begun.by is not None:
            out = stopped(begun, "not started")
            self.ended(step, scope, path, begun, out, alternative=alternative)
            return out
        if isinstance(step, Action) and step.effect == "notify":
            out = await lane.post(self, step, scope, path, begun)
            if out.status != "pending":
                self.ended(step, scope, path, begun, out)
            return out
        scope.frame.open(step.id, begun)
        out = await self._decided(step, scope, path, box, begun, alternative=alternative)
        if out.by == path:  # our own box: from here out this is a failure like any other
            out = replace(out, by=None)
        if not out.ok and out.by is None and step.on_failure.then == "continue" and not out.others:
            out = replace(out, tolerated=True)  # a failure of the work, never one of its unwinding
            self.warn(path, out.error.message if out.error is not None else out.status)
        self.ended(step, scope, path, begun, out, alternative=alternative)
        if out.open and step.on_failure.then == "continue":
            scope.frame.doubt(all_of(step))
            return replace(out, excused=True)
        return out

    async def _joined(self, step: Step, scope: Scope) -> Outcome | None:
        """Wait for the background steps and notifications that the step's own templates name; the first failure."""
        named = step.sees
        if isinstance(step, Action) and step.effect == "notify":  # waits in its lane, unless its `when` asks
            named = named - step.with_.reads | (step.when.reads if step.when is not None else frozenset())
        for name in sorted(named):
            if (telling := scope.frame.notification(name)) is not None:
                await telling
        return await gather.late(step.sees, scope)

    async def _decided(
        self, step: Step, scope: Scope, path: str, box: Box, begun: Record, *, alternative: bool
    ) -> Outcome:
        if self.telling_only and isinstance(step, Action) and step.action != "flow.set":
            return Outcome("skipped", seq=begun.seq, at=begun.at, wall=begun.wall)
        if step.when is None:
            return await self.carry_out(step, scope, path, box, begun)
        try:
            verdict = decide(evaluate(step.when.source, scope.at(begun.at)))
        except ExpressionError as error:
            return failed(f"when: {error.message}", begun, step.id, path)
        if verdict == "no":
            return Outcome("skipped", seq=begun.seq, at=begun.at, wall=begun.wall)
        if verdict == "yes":
            return await self.carry_out(step, scope, path, box, begun)
        out = await self.carry_out(step, scope.instead() if alternative else scope.perhaps(), path, box, begun)
        return replace(out, outputs=Unknown(f"whether {step.id} runs"), sure=False, perhaps=True)

    async def carry_out(
        self, step: Step, scope: Scope, path: str, box: Box, begun: Record, args: Mapping[str, Any] | None = None
    ) -> Outcome:
        """Locks enclose the unwinding, the time box does not."""
        try:
            limit = _limit(step, scope, begun.at)
            locks = _locks(step, scope, begun.at) if step.locks and not self.telling_only else ()
        except ExpressionError as error:
            return failed(error.message, begun, step.id, path)
        mine = self.box(path, box, None if limit is None else begun.at + limit)
        if locks:
            patience = self._patience(step, scope, path, mine, begun)
            record = await self.fx.lock(path, locks, patience)
            if record.by is not None:
                return self._waited(step, path, locks, record, patience)
            if record.status != "succeeded":
                return failed(record.error or Fault("the locks were not given", kind="lock"), record, step.id, path)
        scope = scope.holding(locks)
        out = await self._body(step, scope, path, mine, begun, args)
        self._cover(step, scope, path, out)
        scope.frame.close(step.id, out, begun)  # its handlers see how it ended
        handlers = Handlers(step, step.on_failure, step.finally_, step.cleanup)
        if not isinstance(step, Action) or step.finally_ or step.on_failure.undo or step.on_failure.steps:
            out = await unwind(self, handlers, path, scope, out, view=scope.frame.views[step.id])
        if step.temporary and not isinstance(step, Action):
            self.log.lend(path)
        if locks:
            await self.fx.unlock(path, locks)
        return out

    def _patience(self, step: Step, scope: Scope, path: str, mine: Box, begun: Record) -> Box:
        """How long a step waits for its locks: as long as it may work. An action's own time is that of an attempt."""
        if not isinstance(step, Action) or step.effect == "ask" or step.action == "flow.wait":
            return mine
        limit = seconds(step.attempt, scope.at(begun.at))
        return mine if limit is None else self.box(f"{path}@locks", mine, begun.at + limit)

    @staticmethod
    def _waited(step: Step, path: str, locks: tuple[str, ...], record: Record, patience: Box) -> Outcome:
        """The wait for locks was stopped."""
        out = stopped(record, f"it waited for {', '.join(locks)}")
        if out.by not in (patience.key, path):
            return out
        return replace(out, by=path, step=step.id, path=path)

    async def _body(
        self, step: Step, scope: Scope, path: str, box: Box, begun: Record, args: Mapping[str, Any] | None
    ) -> Outcome:
        """The work itself, with the step's own outputs. What an expression gets wrong is a failure like any other."""
        try:
            out = await self._kind(step, scope, path, box, begun, args)
        except ExpressionError as error:
            return failed(error.message, begun, step.id, path)
        out = await looked(self, path, box, out)
        if out.at < begun.at or out.wall < begun.wall:
            out = replace(out, at=max(out.at, begun.at), wall=max(out.wall, begun.wall))
        if out.by == path and out.kind == "timed_out" and not out.step:
            blame = (step.id, path) if isinstance(step, Action) else ("", "")
            said = out.error.message if out.error is not None and isinstance(step, Action) else TIME_OVER
            reason = "" if said == TIME_OVER else f" ({said})"
            limit = "" if box.due is None else f" of {Duration(round(box.due - begun.at, 3))}"
            fault = Fault(f"{path} was not done in its time{limit}{reason}", kind="timeout", attempt=out.attempts)
            out = replace(out, error=fault, step=blame[0], path=blame[1])
        if out.status != "succeeded" or not step.outputs or isinstance(step, Foreach):
            return out
        try:
            return await gather.own_outputs(step, scope, out)
        except ExpressionError as error:  # after the record: the change and its inverse stay
            return replace(
                out,
                status="failed",
                kind="failed",
                error=Fault(error.message, kind="expression"),
                step=step.id,
                path=path,
            )

    async def _kind(
        self, step: Step, scope: Scope, path: str, box: Box, begun: Record, args: Mapping[str, Any] | None
    ) -> Outcome:
        match step:
            case Action():
                return await act(self, step, scope, path, box, begun, args)
            case Block():
                return await gather.sequence(self, step.steps, scope, path, box, step.keep_going, begun.at)
            case Parallel():
                return await gather.parallel(self, step, scope, path, box, begun)
            case Fallback():
                return await gather.fallback(self, step, scope, path, box, begun)
            case Choose():
                return await gather.choose(self, step, scope, path, box, begun)
            case Foreach():
                return await gather.foreach(self, step, scope, path, box, begun)
            case SubPlaybook():
                return await playing.call(self, step, scope, path, box, begun)
        assert_never(step)

    async def sequence(
        self, steps: tuple[Step, ...], scope: Scope, path: str, box: Box, tolerance: Tolerance = None
    ) -> Outcome:
        """Steps in order."""
        return await gather.sequence(self, steps, scope, path, box, tolerance)

    def _cover(self, step: Step, scope: Scope, path: str, out: Outcome) -> None:
        """`undo: {steps}` (or none) of a block stands for the inverses of what is inside."""
        if isinstance(step, Action) or step.undo.kind not in ("steps", "none"):
            return
        numbers = list(self.log.effects(path))
        if not numbers:
            return
        for done in self.log.within(path):
            done.covered = done.covered or not done.open
        if step.undo.kind == "steps":
            seen = scope.naming(result=out.outputs, error=None)
            self.log.remember(Done(max(numbers), path, step, seen, authored=True, locks=scope.held))

    def ended(
        self, step: Step, scope: Scope, path: str, begun: Record, out: Outcome, *, alternative: bool = False
    ) -> None:
        """Show what became of a step, and note its milestone."""
        scope.frame.close(step.id, out, begun)
        if "!" in path and (out.status in ("succeeded", "skipped") or (out.tolerated and out.by is None)):
            self._ended[plain(path)] = out
        data = events.ended(step, scope, begun, out)
        if alternative:
            data["alternative"] = True
        self.fx.emit("step.ended", path, data)
        if step.milestone is not None and out.status == "succeeded" and not out.tolerated:
            told = isinstance(step, Action) and step.effect in ("notify", "ask")
            self.met(step.milestone, scope, path, out, told=told)


def _locks(step: Step, scope: Scope, at: float) -> tuple[str, ...]:
    """The step's locks that no enclosing step holds."""
    return tuple(name for name in playing.lock_names(step.locks, scope.at(at)) if name not in scope.held)


def _limit(step: Step, scope: Scope, at: float) -> float | None:
    """The bound of the whole step, in seconds; None: none of its own."""
    bounds = [step.timeout]
    if isinstance(step, Action):
        if step.poll is not None and step.poll.until is not None:
            bounds.append(step.poll.timeout)
        if step.retry is not None:
            bounds.append(step.retry.max_duration)
    names = scope.at(at) if any(isinstance(one, Template) for one in bounds) else {}
    found = [length for one in bounds if (length := seconds(one, names)) is not None]
    return min(found, default=None)
