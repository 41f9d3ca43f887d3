"""From a command line to what a run starts with: the playbook without problems, typed inputs, the world around it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli import writing
from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit, InvalidError, Place, Problem
from runbook.runner.wording import one_line

if TYPE_CHECKING:
    from runbook.interpreter.effects import Question
    from runbook.interpreter.load import Loaded
    from runbook.interpreter.model import Input, Playbook
    from runbook.runner import people, session

COMMAND_LINE = Place("<command line>")
NO_SANDBOX = "\0none"
"""The value of --sandbox when it is not given; '' is --sandbox without a scenario."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run starts with."""

    loaded: Loaded
    playbook: Playbook
    inputs: Mapping[str, Any]


def sandbox_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--sandbox [SCENARIO]`."""
    return click.option(
        "--sandbox",
        "scenario",
        metavar="[SCENARIO]",
        is_flag=False,
        flag_value="",
        default=NO_SANDBOX,
        help="Rehearse in a SIMULATED world; SCENARIO sets it up. Nothing real is touched.",
    )(command)


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-i NAME=VALUE` and `--inputs FILE`."""
    command = click.option(
        "--inputs", "files", multiple=True, metavar="FILE", help="Inputs from a YAML file; -i wins over it."
    )(command)
    return click.option("-i", "given", multiple=True, metavar="NAME=VALUE", help="An input; lists and maps as YAML.")(
        command
    )


def prepare(file: str, given: Sequence[str], files: Sequence[str], scenario: str, terminal: Terminal) -> Prepared:
    """Load and check everything; asks for missing inputs on a terminal.

    Raises click's Exit (2) after all problems were shown.
    """
    if not file:
        raise click.UsageError("no playbook was given (--sandbox takes the word after it: put it after the playbook)")
    loaded = writing.read(file)
    if loaded.problems:
        writing.show_problems(loaded, terminal)
    if loaded.playbook is None or writing.errors(loaded.problems):
        click.echo(terminal.paint("nothing was run", "red"), err=True)
        raise click.exceptions.Exit(int(Exit.INVALID))
    playbook = loaded.playbook
    wanted = dict(_scenario(scenario, loaded.playbook).inputs) if scenario != NO_SANDBOX else {}
    for path in files:
        wanted |= _read_inputs(path)
    wanted |= _from_words(playbook, given)
    if terminal.asks:
        wanted |= _ask_missing(playbook, wanted)
    from runbook.interpreter import inputs

    typed, problems = inputs.coerce(playbook.inputs, wanted, os.environ, COMMAND_LINE)
    wrong = [problem for problem in problems if problem.severity == "error"]
    if problems:
        _show(problems, loaded, terminal)
    if wrong:
        click.echo(terminal.paint("nothing was run", "red"), err=True)
        raise click.exceptions.Exit(int(Exit.INVALID))
    return Prepared(loaded, playbook, typed)


def _show(problems: Sequence[Problem], loaded: Loaded, terminal: Terminal) -> None:
    from runbook.cli import problems as rendering

    click.echo(rendering.render_text(tuple(problems), loaded.files, terminal.color), err=True, nl=False)


def _from_words(playbook: Playbook, given: Sequence[str]) -> dict[str, Any]:
    """`-i name=value` by the declared types; an undeclared name is left to `coerce`, which knows what was meant."""
    from runbook.interpreter import inputs

    declared = {entry.name: entry for entry in playbook.inputs}
    found: dict[str, Any] = {}
    for words in given:
        name, equals, text = words.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise click.UsageError(f"-i {words}: write it as name=value")
        found[name] = inputs.from_text(declared[name], text) if name in declared else text
    return found


def _read_inputs(path: str) -> dict[str, Any]:
    from runbook.interpreter import source
    from runbook.runner import files

    try:
        text = files.read(path)
    except FileNotFoundError as error:
        raise InvalidError(f"--inputs {path}: {error.strerror or 'cannot be read'}") from None
    document = source.parse(text, path)
    wrong = tuple(problem for problem in document.problems if problem.severity == "error")
    if wrong:
        raise InvalidError(f"--inputs {path} is not YAML as runbook reads it", wrong)
    plain = document.data if document.data is not None else {}
    if not isinstance(plain, Mapping):
        raise InvalidError(f"--inputs {path}: a map of names and values is wanted")
    return {str(name): value for name, value in plain.items()}


def _ask_missing(playbook: Playbook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Required inputs that nobody gave, one after the other."""
    from runbook.interpreter import inputs

    found: dict[str, Any] = {}
    for entry in playbook.inputs:
        if (
            entry.name in given
            or not entry.required
            or entry.secret
            or (entry.from_env and entry.from_env in os.environ)
        ):
            continue
        found[entry.name] = inputs.from_text(entry, _ask_one(entry))
    return found


def _ask_one(entry: Input) -> str:
    choices = f" ({', '.join(map(str, entry.enum))})" if entry.enum else f" ({entry.type})"
    if entry.description:
        click.echo(f"  {one_line(entry.description)}")
    typed: str = click.prompt(f"  {entry.name}{choices}", type=str)
    return typed


# -- the world around a run


def _scenario(scenario: str, playbook: Playbook | None) -> Any:
    from runbook.sandbox import scenario as scenarios

    if scenario:
        return scenarios.read(Path(scenario))
    if playbook is None:
        return scenarios.Scenario()
    return scenarios.for_playbook(playbook, Path(playbook.file).parent)


@contextlib.contextmanager
def world(scenario: str, playbook: Playbook | None = None) -> Iterator[session.World]:
    """This machine, or for a rehearsal a simulated world that ends with the command."""
    from runbook.runner import session

    here = session.here()
    if scenario == NO_SANDBOX:
        yield here
        return
    from runbook.sandbox import surroundings

    with surroundings.start(_scenario(scenario, playbook)) as sandbox:
        yield replace(here, surroundings=sandbox.surroundings)
        for words in sandbox.unmodelled:
            click.echo(f"SIMULATED: not modelled, so not rehearsed: {words}", err=True)


def asker(
    terminal: Terminal, around: session.World, quiet: Callable[[], contextlib.AbstractContextManager[None]]
) -> Callable[[Question], people.Answer | None] | None:
    """Who answers questions: the scenario of a rehearsal, then whoever sits at the terminal; None: nobody."""
    from runbook.cli.asking import Asker

    here = Asker(terminal, quiet) if terminal.asks else None
    if not around.surroundings.simulated:
        return here

    def ask(question: Question) -> people.Answer | None:
        answered = around.surroundings.answer(f"manual.{question.kind}", question.options)
        if answered is None:
            return here(question) if here is not None else None
        return _from_scenario(question, answered)

    return ask


def _from_scenario(question: Question, answered: Mapping[str, Any]) -> people.Answer:
    """A scenario's answer as a person's: `{choice}`, `{declined: why}`, a checklist's `{answers}`, or just yes."""
    import time

    from runbook.runner import people

    if answered.get("declined"):
        return people.Answer("decline", "scenario", time.time(), str(answered["declined"]))
    items = tuple(answered.get("answers") or ())
    default = "" if items else {"approve": "approve", "checklist": "all"}.get(question.kind, "")
    by = answered.get("by") or "scenario"
    name = str(by[0]) if isinstance(by, list) and by else str(by)
    comment = str(answered.get("comment") or "")
    return people.Answer(str(answered.get("choice") or default), name, time.time(), comment, items)
