"""Milestones against the wall clock: what became of a playbook's objectives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.interpreter.expressions import ExpressionError, render
from runbook.interpreter.model import Playbook, SubPlaybook, Template
from runbook.interpreter.scope import children
from runbook.interpreter.times import Timestamp
from runbook.runner.journal import Event

_PHASE = re.compile(r"!\w+|~\d+|\[\d+\]")
"""What a key holds beside the ids of steps, which name a step by themselves."""


def judge(
    playbook: Playbook, names: Mapping[str, Any], events: Iterable[Event], started: float, *, well: bool
) -> list[dict[str, Any]]:
    """`{name, within, verdict, since, at}` of each objective.

    `names`: the run's inputs and vars. `started`, `since`, `at`: Unix time. `well`: the run succeeded. The verdict is
    met, missed, or n/a: its steps were not needed, or what it counts from never happened.
    """
    if not playbook.objectives:
        return []
    met, ended = _happened(events)
    found = []
    for objective in playbook.objectives:
        since = _since(objective.since, names, met, started)
        at = met.get(objective.name)
        steps = list(_steps(playbook, objective.name, ""))
        if since is None or (at is None and steps and all(_needless(step, ended, well=well) for step in steps)):
            verdict = "n/a"
        else:
            verdict = "met" if at is not None and at <= since + objective.within else "missed"
        found.append({"name": objective.name, "within": objective.within, "verdict": verdict, "since": since, "at": at})
    return found


def _happened(events: Iterable[Event]) -> tuple[dict[str, float], dict[str, set[str]]]:
    """Milestones that stand, with their Unix time; how the steps ended (of a foreach, in each iteration), by path."""
    stands: dict[str, dict[str, float]] = {}  # milestone -> the steps that met it and were not undone
    ended: dict[str, set[str]] = {}
    for event in events:
        name = str(event.data.get("name") or event.key)
        if event.kind == "milestone":
            stands.setdefault(name, {}).setdefault(event.key, float(event.data["wall"]))
        elif event.kind == "milestone.taken_back":
            stands.get(name, {}).pop(event.key, None)
        elif event.kind == "step.ended" and event.data.get("kind") != "phase":
            ended.setdefault(_plain(event.key), set()).add(str(event.data.get("status")))
    return {name: min(steps.values()) for name, steps in stands.items() if steps}, ended


def _plain(key: str) -> str:
    """The ids of a key."""
    return "/".join(part for part in _PHASE.sub("", key).split("/") if part)


def _needless(path: str, ended: Mapping[str, set[str]], *, well: bool) -> bool:
    """Whether a step was skipped, or never began because what it is in, or the run, ended well without it."""
    if path in ended:
        return ended[path] == {"skipped"}
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in ended:
            return ended[path] <= {"succeeded", "skipped"}
    return well


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


def _steps(playbook: Playbook, milestone: str, above: str) -> Iterator[str]:
    """Paths of the steps that meet it; inside a sub-playbook the name is `<id>.<name>`."""
    todo = [(step, above) for step in (*playbook.steps, *playbook.on_failure.steps, *playbook.finally_)]
    while todo:
        step, outer = todo.pop()
        path = f"{outer}/{step.id}" if outer else step.id
        if step.milestone == milestone:
            yield path
        if isinstance(step, SubPlaybook) and milestone.startswith(f"{step.id}."):
            yield from _steps(step.playbook, milestone.removeprefix(f"{step.id}."), path)
        todo += [(child, path) for child in children(step)]
