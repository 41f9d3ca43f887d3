"""Notifications: told beside the main line, one ordered lane per family. They never delay it and never fail it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from runbook.interpreter.effects import Record
from runbook.interpreter.expressions import ExpressionError, decide, evaluate, render
from runbook.interpreter.model import Action
from runbook.interpreter.outcome import Outcome, failed
from runbook.interpreter.run import Run
from runbook.interpreter.scope import Scope

PATIENCE = 20.0  # seconds after the root's finally


async def post(run: Run, step: Action, scope: Scope, path: str, begun: Record) -> Outcome:
    """Queue a notification. It tells how things are now, except of notifications that it names: it waits for those."""
    try:
        verdict = "yes" if step.when is None else decide(evaluate(step.when.source, scope.at(begun.at)))
    except ExpressionError as error:
        run.warn(path, error.message)
        return replace(failed(error.message, begun, step.id, path), tolerated=True)
    if verdict == "no":
        return Outcome("skipped", seq=begun.seq, at=begun.at, wall=begun.wall)
    named = tuple(name for name in sorted(step.with_.reads) if scope.frame.notification(name) is not None)
    seen = replace(scope if verdict == "yes" else scope.perhaps(), frame=scope.frame.as_now())
    task = run.fx.spawn(_tell(run, step, scope, seen, path, begun, named, run.lanes.get(step.lane)))
    run.lanes[step.lane] = scope.frame.telling[step.id] = task
    run.telling.append((path, task))
    return Outcome("pending", seq=begun.seq, at=begun.at, wall=begun.wall)


async def _tell(
    run: Run,
    step: Action,
    scope: Scope,
    seen: Scope,
    path: str,
    begun: Record,
    named: tuple[str, ...],
    before: Awaitable[Outcome] | None,
) -> Outcome:
    """`seen` is how things were when it was posted: what runs meanwhile must not change what is told, nor a replay."""
    for name in named:
        if (task := scope.frame.notification(name)) is not None:
            await task
        if (view := scope.frame.view(name)) is not None:
            seen.frame.views[name] = view
    if before is not None:
        await before
    out = await _told(run, step, seen, path, begun)
    if out.by is not None:
        left = {"id": step.id, "name": step.name, "action": step.action, "status": out.status}
        run.fx.emit("lane.left", path, left)
    elif not out.ok:
        run.warn(path, f"not delivered: {out.error.message if out.error is not None else out.status}")
    out = replace(out, tolerated=not out.ok or out.tolerated)
    run.ended(step, scope, path, begun, out)
    if not out.sure:  # a plan: its failure would stop nothing
        scope.frame.doubt([step.id])
    return out


async def _told(run: Run, step: Action, seen: Scope, path: str, begun: Record) -> Outcome:
    try:
        args = render(step.with_.data, seen.at(begun.at), lenient=True)
    except ExpressionError as error:
        return failed(error.message, begun, step.id, path)
    turn = await run.fx.sleep(f"{path}#0+", 0.0, run.lane)  # its time counts from here, not from when it was queued
    return await run.carry_out(step, seen, path, run.lane, replace(begun, at=turn.at, wall=turn.wall), args)


async def joined(run: Run) -> None:
    """Wait for what is not told yet, at most `PATIENCE` seconds; the rest is listed."""
    if not run.telling:  # whether they are told by now is nothing that a replay would see the same
        return
    now = await run.fx.sleep(f"#{run.lane.key}", 0.0, run.hard)
    run.lane.due = now.at + PATIENCE
    run.fx.opened(run.lane)
    for _, task in run.telling:
        await task
