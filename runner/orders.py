"""What other processes tell a run, by its mailbox: cancel, answer. And what they may ask of its journal."""

from __future__ import annotations

import time
from typing import Literal

from runbook.interpreter.effects import Question
from runbook.interpreter.errors import InvalidError, RefusedError
from runbook.interpreter.values import from_wire
from runbook.runner import people, processes
from runbook.runner.journal import Journal
from runbook.runner.records import Past, read_past
from runbook.runner.view import RunView
from runbook.runner.world import World, here

AGAIN = 1.0
"""Seconds after a cancel before which a second one is the same one (a nervous finger)."""

Cancelled = Literal["told", "told again", "a moment ago", "not acted on yet", "twice already", "kept"]
"""What a cancel came to. `told`: the run's process stops the work and cleans up; `told again`: it ends that too.

Of no effect: it was told `a moment ago` and cleans up; the cancel before is `not acted on yet`; it was told `twice
already`. `kept`: nobody runs it, and whoever resumes it is told.
"""


def cancel(prefix: str, *, world: World | None = None, why: str = "") -> Cancelled:
    """Ask a run to stop and clean up; said again, to end its clean-up. RefusedError when it has ended."""
    world = world or here()
    folder = world.store.find(prefix)
    journal = Journal.open(folder.journal)
    try:
        waits = any(mail.kind in ("cancel", "preempt") for mail in journal.mail())
        view, stops = _stops(journal)
        if view.ended is not None and view.open_round is None and journal.holder() is None:
            raise RefusedError(f"run {folder.id} has ended")
        if waits:
            return "not acted on yet"
        root = "@run" if view.open_round is None else f"@{view.open_round.what}[{view.open_round.number}]"
        runs = journal.holder() is not None
        if runs and ("@hard" if root == "@run" else f"{root}@hard") in stops:
            return "twice already"
        if runs and root in stops and time.time() < stops[root] + AGAIN:
            return "a moment ago"
        by = f"cancelled by {processes.user()}"
        journal.send("cancel", {"why": f"{by}: {why}" if why else by})
        return "kept" if not runs else "told again" if root in stops else "told"
    finally:
        journal.close()


def _stops(journal: Journal) -> tuple[RunView, dict[str, float]]:
    """The run as it is, and when which box of it was stopped (Unix time)."""
    view, stops = RunView(), {}
    for event in journal.events():
        view.add(event)
        if event.kind == "stop":
            stops[event.key] = event.wall
    return view, stops


def questions(prefix: str, *, world: World | None = None) -> list[Question]:
    """What a run waits for, as people may answer it now."""
    world = world or here()
    journal = Journal.open(world.store.find(prefix).journal, readonly=True)
    try:
        return _open_questions(read_past(journal.events()))
    finally:
        journal.close()


def answer(prefix: str, step: str, given: people.Answer, *, world: World | None = None) -> bool:
    """Answer the open question of `step` (its path, or its last id).

    True: the run's process was told; False: nobody runs it, `resume` goes on. Raises InvalidError when there is no such
    question, RefusedError when the answer does not count.
    """
    world = world or here()
    folder = world.store.find(prefix)
    journal = Journal.open(folder.journal)
    try:
        past = read_past(journal.events())
        found = [q for q in _open_questions(past) if step in (q.key, q.step, q.step.rpartition("/")[2])]
        if len(found) != 1:
            names = ", ".join(q.step for q in _open_questions(past)) or "none"
            fits = f"{step} fits {len(found)} open questions" if found else f"no open question fits {step}"
            raise InvalidError(fits, hint=f"open: {names}")
        question = found[0]
        mailed = [m.data for m in journal.mail() if m.kind == "answer" and m.data.get("question") == question.key]
        before = [people.Answer.from_wire(wire) for wire in (*past.given.get(question.key, ()), *mailed)]
        if mailed and people.verdict(question, before) is not None:
            raise RefusedError(
                f"{question.step} was answered already: {before[-1].choice} by {before[-1].by}",
                hint=f"`runbook resume {folder.id}` goes on with it",
            )
        first = next(journal.events(), None)
        initiator = str(first.data.get("initiator", "")) if first is not None else ""
        why = people.refusal(question, given, before, initiator)
        if why is not None:
            raise RefusedError(why)
        journal.send("answer", {**given.to_wire(), "question": question.key})
        return journal.holder() is not None
    finally:
        journal.close()


def _open_questions(past: Past) -> list[Question]:
    return [
        Question(key, event.data["step"], event.data["kind"], event.data["text"], from_wire(event.data["options"]))
        for key, event in past.asked.items()
        if ("ask", key) not in past.answers
    ]
