"""Undo: inverses played back, newest first by journal number, `again` steps last; stops at the first that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from runbook.interpreter.changes import Done, inside
from runbook.interpreter.effects import Box, Call, Fault, Record
from runbook.interpreter.outcome import Outcome, failed, stopped

if TYPE_CHECKING:
    from runbook.interpreter.run import Run

ATTEMPTS = 3
PAUSE = 1.0


async def play_back(run: Run, changes: Sequence[Done], key: str, room: Box, path: str, *, erase: bool) -> Outcome:
    """Take changes back in `room`.

    `erase` (an undo): neither a change nor its inverse is ever taken back again by an outer undo. A return of temporary
    changes does not erase: change and return stay in the log, so that an outer undo stops the writers, goes back, starts
    them; and if it gets stuck in between, they are `open` again and the next phase starts them.
    """
    at, played, sure = 0.0, 0, True
    for done in sorted(changes, key=lambda d: (d.again and erase, -d.seq)):
        if done.again and erase and not played:
            break  # only restarts are left, and nothing was undone that they would have to see
        out = await _one(run, done, f"{key}[{done.seq}]", room, erase)
        at, sure = max(at, out.at), sure and out.sure
        if erase:
            _erased(run, done, out, path)
        done.open = done.open and not out.ok
        if not out.ok:
            message = f"stopped at {done.path}: {out.error.message if out.error else out.status}"
            return replace(
                out, at=at, error=replace(out.error or Fault(""), message=message), outputs={"undone": played}
            )
        played += 1
    return Outcome(outputs={"undone": played}, at=at, sure=sure)


def _erased(run: Run, done: Done, out: Outcome, path: str) -> None:
    done.undone = out.ok
    if done.returns is not None:  # even if it failed: it may have happened
        done.returns.open = True
    error = None if out.error is None else out.error.message
    run.fx.emit("undone", done.path, {"seq": done.seq, "ok": out.ok, **({"error": error} if error else {})})
    if out.ok:
        view = done.scope.frame.views.get(done.step.id) if done.step is not None else None
        if view is not None:
            view["undone"] = True
        run.taken_back(path)


async def _one(run: Run, done: Done, key: str, room: Box, erase: bool) -> Outcome:
    """One inverse, with the locks of the step that made the change."""
    about = {"id": done.path, "kind": "inverse", "name": "", "action": done.inverse.action if done.inverse else ""}
    begun = await run.fx.start(key, room, about)
    if begun.by is not None:
        return stopped(begun, "not started")
    if done.irreversible:
        return failed(Fault(f"nothing takes {done.action or 'it'} back", kind="permanent"), begun, "", done.path)
    if done.locks:
        record = await run.fx.lock(f"{key}@locks", done.locks, room)
        if record.by is not None:
            return stopped(record)
        if record.status != "succeeded":
            return failed(record.error or Fault("the locks were not given", kind="lock"), record, "", done.path)
    out = await (
        _authored(run, done, key, room, erase) if done.authored else _inverse(run, done, key, room, begun, erase)
    )
    if done.locks:
        await run.fx.unlock(f"{key}@locks", done.locks)
    return replace(out, at=max(out.at, begun.at))


async def _authored(run: Run, done: Done, key: str, room: Box, erase: bool) -> Outcome:
    """The author's `undo: {steps}`."""
    assert done.step is not None
    out = await run.sequence(done.step.undo.steps, done.scope.holding(done.locks), key, room)
    for played in run.log:
        if inside(played.path, key):
            if erase:
                played.undone, played.open = True, False
            else:
                played.returns = done
    return out


async def _inverse(run: Run, done: Done, key: str, room: Box, begun: Record, erase: bool) -> Outcome:
    """The inverse that the action itself gave, at most three attempts."""
    from runbook.interpreter.attempts import settled

    assert done.inverse is not None
    for attempt in range(1, ATTEMPTS + 1):
        one = run.box(f"{key}#{attempt}", room)
        call = Call(
            key=one.key,
            op=key,
            step=done.path,
            action=done.inverse.action,
            args=done.inverse.args,
            effect="change",
            attempt=attempt,
            idempotent=True,
            again=done.again,
            base=done.scope.book.playbook.file,
            inverse=True,
            undoes=done.seq,
            maybe=done.scope.maybe,
        )
        record = await settled(run, call, one)
        if record.inverse is not None and not erase:
            run.log.remember(
                Done(record.seq, key, None, done.scope, call.action, record.inverse, locks=done.locks, returns=done)
            )
        if record.by is not None:
            return stopped(record)
        if record.status == "succeeded":
            return Outcome(seq=record.seq, at=record.at, wall=record.wall, sure=record.sure)
        fault = record.error or Fault(f"{call.action} failed")
        if attempt == ATTEMPTS or not fault.temporary:
            break
        rest = await run.fx.sleep(f"{one.key}+", PAUSE * 2 ** (attempt - 1), room, jitter=True)
        if rest.by is not None:
            return stopped(rest)
    return failed(fault, record, "", done.path)
