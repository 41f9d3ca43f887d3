"""The commands that go on with a run; one that was rehearsed goes on only in its own world."""

from __future__ import annotations

import shlex

from runbook.runner import people
from runbook.runner.run_tree import QuestionView, step_of
from runbook.runner.view import RunView

OVER = "its simulated world ended with the command; one to go on in stays: runbook sandbox up SCENARIO"


def is_over(view: RunView) -> bool:
    """Whether nothing can go on: a rehearsal whose world was the command's own."""
    return view.simulated and not view.world


def command(view: RunView, verb: str, *words: str) -> str:
    """`runbook VERB RUN WORDS`, as it is typed; where the run was rehearsed, in the world that it names."""
    world = ("--sandbox", shlex.quote(view.world)) if view.world else ()
    return " ".join(("runbook", verb, view.id, *words, *world))


def answers(view: RunView, question: QuestionView) -> list[str]:
    """The commands that answer a question, one for each answer, as they are typed."""
    return [
        answering(view.id, step_of(question.key), choice)
        for choice in people.choices_of(question.kind, question.options)
    ]


def answering(run: str, step: str, choice: str) -> str:
    """`runbook answer RUN STEP CHOICE`, as it is typed."""
    return shlex.join(("runbook", "answer", run, step, choice))


def with_(view: RunView, said: str) -> str:
    """`SAID: runbook resume RUN`, or why that cannot be."""
    return OVER if is_over(view) else f"{said}: {command(view, 'resume')}"
