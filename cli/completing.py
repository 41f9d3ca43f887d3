"""What the shell completes beside commands and options: runs, their steps, what may be answered.

An import of `looking` is a function's: it takes these for its own arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from runbook.interpreter.errors import RunbookError
from runbook.runner import step_logs
from runbook.runner.run_tree import step_of

MOST_RUNS = 50  # of which a shell looks whether they ask something

if TYPE_CHECKING:
    from runbook.runner.store import RunFolder


def complete_runs(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the runs that begin so, newest first."""
    from runbook.cli.looking import store

    return [name for name in ("last", *(folder.id for folder in store().runs()[::-1])) if name.startswith(typed)]


def complete_asking(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the runs that ask something now, newest first; `last` where that is one of them."""
    from runbook.cli.looking import acted_on, store, view_of

    asking = []
    for folder in store().runs()[::-1][:MOST_RUNS]:
        try:
            asking += [folder.id] if view_of(folder)[0].open_questions() else []
        except (RunbookError, OSError):
            continue
    try:
        newest = store().find(acted_on("last")).id
    except (RunbookError, OSError):
        newest = ""
    return [name for name in (*(["last"] if newest in asking else []), *asking) if name.startswith(typed)]


def complete_inputs(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the inputs of the playbook on the command line, as `name=`."""
    from runbook.cli import writing

    named = ctx.params.get("file") or next(iter(ctx.args), "")  # an option without its value yet ends the parsing
    file = str(named)
    if not file or "=" in typed:
        return []
    playbook = writing.read(file).playbook
    given = {str(word).partition("=")[0] for word in ctx.params.get("given") or ()}
    names = [one.name for one in playbook.inputs] if playbook is not None else []
    return [f"{name}=" for name in names if name.startswith(typed) and name not in given]


def complete_steps(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the steps of the run named before that wrote something."""
    return [step for step in _typed(ctx, _wrote) if step.startswith(typed)]


def complete_questions(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the steps of the run named before that ask something now."""
    from runbook.cli.looking import view_of

    asked = _typed(ctx, lambda folder: [step_of(question.key) for question in view_of(folder)[0].open_questions()])
    return [step for step in asked if step.startswith(typed)]


def complete_choices(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: what may be answered to the step named before."""
    from runbook.runner import people, session

    def choices(folder: RunFolder) -> list[str]:
        step = str(ctx.params.get("step") or "")
        asked = (q for q in session.questions(folder.id) if step in (q.step, q.step.rpartition("/")[2]))
        return [choice for question in asked for choice in people.choices(question)]

    return [choice for choice in _typed(ctx, choices) if choice.startswith(typed)]


def _typed(ctx: click.Context, found: Callable[[RunFolder], list[str]]) -> list[str]:
    """What is found of the run on the command line; nothing where there is no such run."""
    from runbook.cli.looking import acted_on, store

    try:
        return found(store().find(acted_on(str(ctx.params.get("run") or ""))))
    except (RunbookError, OSError):
        return []


def _wrote(folder: RunFolder) -> list[str]:
    said = (_key(line) for line in (folder.logs / step_logs.NAME).read_bytes().splitlines())
    return list(dict.fromkeys(step for step in said if step))


def _key(line: bytes) -> str:
    try:
        return step_of(str(json.loads(line).get("key", "")))
    except ValueError:
        return ""  # cut off by a crash
