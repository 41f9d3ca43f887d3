"""Milestones against the wall clock: what became of a playbook's objectives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.interpreter.expressions import ExpressionError, render
from runbook.interpreter.model import Playbook, Step, SubPlaybook, Template
from runbook.interpreter.scope import children
from runbook.interpreter.values import Timestamp
from runbook.runner.journal import Event


def judge(
    playbook: Playbook, names: Mapping[str, Any], events: Iterable[Event], started: float
) -> list[dict[str, Any]]:
    """`{name, within, verdict, since, at}` of each objective.

    `names`: the run's inputs and vars. `started`, `since`, `at`: Unix time. The verdict is met, missed, or n/a: its
    step was skipped, or what it counts from never happened.
    """
    if not playbook.objectives:
        return []
    met, skipped = _happened(events)
    found = []
    for objective in playbook.objectives:
        since = _since(objective.since, names, met, started)
        at = met.get(objective.name)
        steps = set(_steps(playbook.steps, objective.name))
        if since is None or (at is None and steps and steps <= skipped):
            verdict = "n/a"
        else:
            verdict = "met" if at is not None and at <= since + objective.within else "missed"
        found.append({"name": objective.name, "within": objective.within, "verdict": verdict, "since": since, "at": at})
    return found


def _happened(events: Iterable[Event]) -> tuple[dict[str, float], set[str]]:
    """Milestones that stand, with their Unix time; ids of steps that were skipped."""
    stands: dict[str, dict[str, float]] = {}  # milestone -> the steps that met it and were not undone
    skipped: set[str] = set()
    for event in events:
        name = str(event.data.get("name") or event.key)
        if event.kind == "milestone":
            stands.setdefault(name, {}).setdefault(event.key, float(event.data["wall"]))
        elif event.kind == "milestone.taken_back":
            stands.get(name, {}).pop(event.key, None)
        elif event.kind == "step.ended" and event.data.get("status") == "skipped":
            skipped.add(str(event.data.get("id")))
    return {name: min(steps.values()) for name, steps in stands.items() if steps}, skipped


def _since(
    since: str | Template | None, names: Mapping[str, Any], met: Mapping[str, float], started: float
) -> float | None:
    if since is None:
        return started
    if isinstance(since, str):
        return met.get(since)
    try:
        value = render(since.data, names)
    except ExpressionError:
        return None
    if value is None:
        return started
    return float(value) if isinstance(value, Timestamp) else None


def _steps(steps: Iterable[Step], milestone: str) -> Iterator[str]:
    """Ids of the steps that meet it; inside a sub-playbook the name is `<id>.<name>`."""
    for step in steps:
        if step.milestone == milestone:
            yield step.id
        if isinstance(step, SubPlaybook) and milestone.startswith(f"{step.id}."):
            yield from _steps(step.playbook.steps, milestone.removeprefix(f"{step.id}."))
        yield from _steps(children(step), milestone)
