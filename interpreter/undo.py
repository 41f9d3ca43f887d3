"""Undo: inverses played back, newest first by journal number, `again` steps last; stops at the first that fails.

What somebody has accepted (`runbook undo RUN --accept STEP`) is not played: the log does not give it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from runbook.interpreter.changes import Done, inside
from runbook.interpreter.doubt import settled
from runbook.interpreter.effects import Box, Call, Fault
from runbook.interpreter.frozen import frozen
from runbook.interpreter.outcome import Outcome, failed, stopped

if TYPE_CHECKING:
    from runbook.interpreter.run import Run

ATTEMPTS = 3
PAUSE = 1.0


def in_order(changes: Iterable[Done]) -> list[Done]:
    """As an undo plays them: newest first, what is done again last."""
    return sorted(changes, key=lambda done: (done.again, -done.seq))


@frozen
class Playback:
    """Takes changes back under `path`. `held`: locks that the unwinding scope still holds.

    `erase` (an undo): neither a change nor its inverse is ever taken back again by an outer undo. A return of temporary
    changes does not erase: change and return stay in the log, so that an outer undo stops the writers, goes back,
    starts them; and if it gets stuck in between, they are `open` again and the next phase starts them.
    """

    run: Run
    path: str
    erase: bool
    held: tuple[str, ...] = ()

    async def play(self, changes: Sequence[Done], key: str, room: Box) -> Outcome:
        """All of `changes` in the right order; stops at the first inverse that fails."""
        at, played, sure = 0.0, 0, True
        for done in in_order(changes):
            if done.again and self.erase and not played:
                break  # only restarts are left, and nothing was undone that they would have to see
            out = await self._one(done, f"{key}[{done.seq}]", room)
            at, sure = max(at, out.at), sure and out.sure
            if self.erase:
                self._erased(done, out, key)
            done.open = done.open and not out.ok
            if not out.ok:
                message = f"stopped at {done.path}: {out.error.message if out.error else out.status}"
                error = replace(out.error or Fault(""), message=message)
                return replace(out, at=at, error=error, outputs={"undone": played})
            played += 1
        return Outcome(outputs={"undone": played}, at=at, sure=sure)

    def _erased(self, done: Done, out: Outcome, phase: str) -> None:
        done.undone = out.ok
        if done.returns is not None:  # even if it failed: it may have happened
            done.returns.open = True
        error = {"error": out.error.message, "why": out.error.kind} if out.error is not None else {}
        self.run.fx.emit("undone", done.path, {"seq": done.seq, "ok": out.ok, "phase": phase, **error})
        if out.ok:
            if done.step is not None and done.step.id in done.scope.frame.views:
                done.scope.frame.change(done.step.id, {"undone": True})
            self.run.taken_back(self.path)

    async def _one(self, done: Done, key: str, room: Box) -> Outcome:
        """One inverse, with the locks of the step that made the change."""
        fx = self.run.fx
        about = {"id": done.path, "kind": "inverse", "name": "", "action": done.inverse.action if done.inverse else ""}
        begun = await fx.start(key, room, about)
        if begun.by is not None:
            return stopped(begun, "not started")
        if done.irreversible:
            return failed(self._no_inverse(done), begun, "", done.path)
        locks = tuple(name for name in done.locks if name not in self.held)
        if locks:
            record = await fx.lock(key, locks, room)
            if record.by is not None:
                return stopped(record)
            if record.status != "succeeded":
                return failed(record.error or Fault("the locks were not given", kind="lock"), record, "", done.path)
        out = await (self._authored(done, key, room) if done.authored else self._inverse(done, key, room))
        if locks:
            await fx.unlock(key, locks)
        return replace(out, at=max(out.at, begun.at))

    def _no_inverse(self, done: Done) -> Fault:
        command = f"runbook undo {self.run.info.id} --accept {shlex.quote(done.path)}"
        hint = f"see to it by hand, then: {command}"
        return Fault(f"nothing takes {done.action or 'it'} back", kind="no_inverse", hint=hint)

    async def _authored(self, done: Done, key: str, room: Box) -> Outcome:
        """The author's `undo: {steps}`."""
        assert done.step is not None
        scope = replace(done.scope, held=tuple(dict.fromkeys((*self.held, *done.locks))))
        out = await self.run.sequence(done.step.undo.steps, scope, key, room)
        for played in self.run.log:
            if inside(played.path, key):
                if self.erase:
                    played.undone, played.open = True, False
                else:
                    played.returns = done
        return out

    async def _inverse(self, done: Done, key: str, room: Box) -> Outcome:
        """The inverse that the action itself gave, at most three attempts."""
        run, inverse = self.run, done.inverse
        assert inverse is not None
        attempt = 1
        while True:
            one = run.box(f"{key}#{attempt}", room)
            call = Call(
                key=one.key,
                op=key,
                step=done.path,
                action=inverse.action,
                args=inverse.args,
                effect=inverse.effect,
                attempt=attempt,
                idempotent=inverse.effect != "opaque" or inverse.idempotent,
                again=done.again,
                base=done.scope.book.playbook.file,
                inverse=True,
                undoes=done.seq,
                maybe=done.scope.maybe,
            )
            record = await settled(run, call, one)
            if record.inverse is not None and not self.erase:
                back = Done(
                    record.seq, key, None, done.scope, call.action, record.inverse, locks=done.locks, returns=done
                )
                run.log.remember(back)
            if record.by is not None:
                return stopped(record)
            if record.status == "succeeded":
                return Outcome(seq=record.seq, at=record.at, wall=record.wall, sure=record.sure)
            fault = record.error or Fault(f"{call.action} failed")
            if attempt == ATTEMPTS or not fault.temporary:
                return failed(fault, record, "", done.path)
            rest = await run.fx.sleep(f"{one.key}+", PAUSE * 2 ** (attempt - 1), room, jitter=True)
            if rest.by is not None:
                return stopped(rest)
            attempt += 1
