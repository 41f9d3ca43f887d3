"""What other processes tell a run, by its mailbox: cancel, answer. And what they may ask of its journal."""

from __future__ import annotations

from runbook.interpreter.effects import Question
from runbook.interpreter.errors import InvalidError, RefusedError
from runbook.interpreter.values import from_wire
from runbook.runner import people, processes
from runbook.runner.journal import Journal
from runbook.runner.records import Past, read_past
from runbook.runner.world import World, here


def cancel(prefix: str, *, world: World | None = None, why: str = "") -> bool:
    """Ask a run to stop and clean up. True: its process was told; False: nobody runs it, and `resume` will do it."""
    world = world or here()
    folder = world.store.find(prefix)
    journal = Journal.open(folder.journal)
    try:
        if journal.last("run.ended") is not None and journal.holder() is None:
            raise RefusedError(f"run {folder.id} has ended")
        by = f"cancelled by {processes.user()}"
        journal.send("cancel", {"why": f"{by}: {why}" if why else by})
        return journal.holder() is not None
    finally:
        journal.close()


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
