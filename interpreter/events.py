"""What the journal is told of steps, beside the records: for the screen, the report, and everybody who only looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbook.interpreter.effects import Fault, Record
from runbook.interpreter.expressions import ExpressionError, render
from runbook.interpreter.model import Action, Choose, Fallback, Step, SubPlaybook
from runbook.interpreter.outcome import Outcome
from runbook.interpreter.scope import Scope
from runbook.interpreter.values import to_wire


def _fault(fault: Fault) -> dict[str, Any]:
    shown = {"message": fault.message, "kind": fault.kind, "temporary": fault.temporary, "attempt": fault.attempt}
    return {**shown, "hint": fault.hint} if fault.hint else shown


def _kind_of(step: Step) -> str:
    return "playbook" if isinstance(step, SubPlaybook) else type(step).__name__.lower()


def _name(step: Step, scope: Scope) -> str:
    """The name for people. It never decides anything: what it cannot say stays open."""
    if "{{" not in step.name:
        return step.name
    try:
        name = render(step.name, scope.at(0.0), lenient=True)
    except ExpressionError:
        return step.name
    return name if isinstance(name, str) else str(to_wire(name))


def begun(step: Step, scope: Scope) -> dict[str, Any]:
    """A step that begins."""
    action = step.action if isinstance(step, Action) else ""
    about: dict[str, Any] = {"id": step.id, "kind": _kind_of(step), "name": _name(step, scope), "action": action}
    if step.background:
        about["background"] = True
    if step.milestone is not None:
        about["milestone"] = scope.book.prefix + step.milestone
    if step.undo.kind == "none":
        about["undo"] = "none"
    return about


def ended(step: Step, scope: Scope, since: Record, out: Outcome) -> dict[str, Any]:
    """A step that ended: `step.ended`, as JSON."""
    data: dict[str, Any] = {
        "id": step.id,
        "kind": _kind_of(step),
        "name": _name(step, scope),
        "status": out.status,
        "tolerated": out.tolerated,
        "error": None if out.error is None else _fault(out.error),
        "outputs": to_wire(out.outputs),
        "attempts": out.attempts,
        "started": since.wall,
        "duration": max(0.0, out.at - since.at),
        "background": step.background,
        "undone": out.undone,
    }
    if not out.ok and step.place.line:
        data["place"] = str(step.place)
    if out.by is not None:
        data["by"] = out.by
    if out.others:
        data["others"] = [_fault(fault) for fault in out.others]
    if isinstance(out.outputs, Mapping) and "chosen" in out.outputs and isinstance(step, (Fallback, Choose)):
        data["chosen"] = to_wire(out.outputs["chosen"])
    return data
