"""Notifications: told beside the main line, one ordered lane per family. They never delay it and never fail it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

from runbook.interpreter.effects import Record
from runbook.interpreter.expressions import ExpressionError, decide, evaluate, render
from runbook.interpreter.model import Action
from runbook.interpreter.outcome import Outcome, failed
from runbook.interpreter.run import Run
from runbook.interpreter.scope import Scope

PATIENCE = 20.0  # seconds after the root's finally


async def post(run: Run, step: Action, scope: Scope, path: str, begun: Record) -> Outcome:
    """Queue a notification. Its texts say how things are now, unless they name another that is not told yet."""
    try:
        verdict = "yes" if step.when is None else decide(evaluate(step.when.source, scope.at(begun.at)))
        if verdict == "no":
            return Outcome("skipped", seq=begun.seq, at=begun.at, wall=begun.wall)
        first = [task for name in sorted(step.with_.reads) if (task := scope.frame.notification(name)) is not None]
        args = None if first else render(step.with_.data, scope.at(begun.at), lenient=True)
    except ExpressionError as error:
        run.warn(path, error.message)
        return replace(failed(error.message, begun, step.id, path), tolerated=True)
    scope = scope if verdict == "yes" else scope.perhaps()
    before = run.lanes.get(step.lane)
    told = _tell(run, step, scope, path, begun, args, [*first, *([before] if before is not None else [])])
    task = run.fx.spawn(told)
    run.lanes[step.lane] = scope.frame.telling[step.id] = task
    run.telling.append((path, task))
    return Outcome("pending", seq=begun.seq, at=begun.at, wall=begun.wall)


async def _tell(
    run: Run,
    step: Action,
    scope: Scope,
    path: str,
    begun: Record,
    args: Mapping[str, Any] | None,
    first: list[Awaitable[Outcome]],
) -> Outcome:
    for task in first:
        await task
    turn = await run.fx.sleep(f"{path}#0+", 0.0, run.lane)  # its time counts from here, not from when it was queued
    out = await run.carry_out(step, scope, path, run.lane, replace(begun, at=turn.at, wall=turn.wall), args)
    if out.by is not None:
        run.fx.emit("lane.left", path, {"id": step.id, "name": step.name, "action": step.action, "status": out.status})
    elif not out.ok:
        run.warn(path, f"not delivered: {out.error.message if out.error is not None else out.status}")
    scope.frame.telling.pop(step.id, None)
    out = replace(out, tolerated=not out.ok or out.tolerated)
    run.ended(step, scope, path, begun, out)
    return out


async def joined(run: Run) -> None:
    """Wait for what is not told yet, at most `PATIENCE` seconds; the rest is listed."""
    if not run.telling:  # whether they are told by now is nothing that a replay would see the same
        return
    now = await run.fx.sleep(f"#{run.lane.key}", 0.0, run.hard)
    run.lane.due = now.at + PATIENCE
    run.fx.opened(run.lane)
    for _, task in run.telling:
        await task
