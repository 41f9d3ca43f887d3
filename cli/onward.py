"""The commands that go on with a run; one that was rehearsed goes on only in its own world."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Any

from runbook.runner import people
from runbook.runner.run_tree import QuestionView, step_of
from runbook.runner.view import RunView
from runbook.runner.wording import unwired, value

OVER = "its simulated world ended with the command; one to go on in stays: runbook sandbox up SCENARIO"
GONE = "its simulated world is gone; one to rehearse in anew: runbook sandbox up SCENARIO"


def is_over(view: RunView) -> bool:
    """Whether nothing can go on: a rehearsal whose world was the command's own, or was one that is served no more."""
    return view.simulated and not (view.world and Path(view.world).exists())


def over(view: RunView) -> str:
    """Why nothing can go on."""
    return GONE if view.world else OVER


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


def anew(view: RunView) -> str:
    """The command that begins the same anew, as it is typed; what cannot be told again is a word in capitals."""
    words = ["runbook", "plan" if view.applied else "run", _from_here(view)]
    for name, wire in view.inputs.items():
        if name not in view.defaults:
            words += ["-i", f"{name}={_typed(wire)}"]
    if view.applied:
        words += ["-o", "plan.json"]
    if view.simulated:
        words += ["--sandbox", "SCENARIO" if is_over(view) else view.world]
    return shlex.join(words)


def _from_here(view: RunView) -> str:
    """The playbook's file as it is named in the folder that we are in."""
    with contextlib.suppress(FileNotFoundError):
        if view.cwd == str(Path.cwd()):
            return view.file
    return str(Path(view.cwd) / view.file)


def _typed(wire: Any) -> str:
    """An input as it is typed; of what cannot be told, or not on one line, a word that stands for it."""
    plain = unwired(wire)
    text = plain if isinstance(plain, str) else value(wire)
    return "VALUE" if "‹secret:" in text or not text.isprintable() else text


def resuming(view: RunView, said: str = "", meaning: str = "") -> str:
    """`SAID: runbook resume RUN   (MEANING)`, or why that cannot be."""
    if is_over(view):
        return over(view)
    return (f"{said}: " if said else "") + command(view, "resume") + (f"   ({meaning})" if meaning else "")
