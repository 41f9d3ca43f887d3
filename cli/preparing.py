"""From a command line to what a run starts with: the playbook without problems, typed inputs, the world around it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli import writing
from runbook.cli.completing import complete_inputs
from runbook.cli.looking import store
from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit, InvalidError, Place, Problem
from runbook.interpreter.frozen import frozen
from runbook.runner import compiled
from runbook.runner.wording import one_line

if TYPE_CHECKING:
    from runbook.interpreter.effects import Question
    from runbook.interpreter.model import Input, Loaded, Playbook
    from runbook.runner import people, session

COMMAND_LINE = Place("<command line>")
NO_SANDBOX = "\0none"
"""The value of --sandbox when it is not given; '' is --sandbox without a scenario."""
COORDINATES = "coordinates.json"
"""What a world of `runbook sandbox up` writes into its folder: given as SCENARIO, the run happens in that world."""


@frozen
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


def locks_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--locks PLACE`."""
    return click.option(
        "--locks",
        default="",
        metavar="PLACE",
        help="Where locks live: `file` (this machine), k8s:NAMESPACE or k8s:CONTEXT/NAMESPACE (Leases of a cluster). "
        "Default: as the playbook says, else RUNBOOK_LOCKS, else file.",
    )(command)


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-i NAME=VALUE` and `--inputs FILE`."""
    command = click.option(
        "--inputs", "files", multiple=True, metavar="FILE", help="Inputs from a YAML file; -i wins over it."
    )(command)
    return click.option(
        "-i",
        "given",
        multiple=True,
        metavar="NAME=VALUE",
        help="An input; lists and maps as YAML.",
        shell_complete=complete_inputs,
    )(command)


def prepare(file: str, given: Sequence[str], files: Sequence[str], scenario: str, terminal: Terminal) -> Prepared:
    """Load and check everything; asks for missing inputs on a terminal.

    Raises click's Exit (2) after all problems were shown.
    """
    if not file:
        taken = "" if scenario in (NO_SANDBOX, "") else f"; --sandbox took {scenario} as its scenario: write it last"
        raise click.UsageError(f"no playbook was given{taken}")
    loaded = compiled.read_playbook(file, store())
    if loaded.problems:
        writing.show_problems(loaded, terminal)
    if loaded.playbook is None or writing.errors(loaded.problems):
        click.echo(terminal.paint("nothing was run", "red"), err=True)
        raise click.exceptions.Exit(int(Exit.INVALID))
    playbook = loaded.playbook
    from runbook.interpreter import inputs
    from runbook.runner.given import from_environment, from_outside

    texts, places, wanted = dict(loaded.files), dict[str, Place](), dict[str, Any]()
    if scenario != NO_SANDBOX:
        rehearsed = _scenario(scenario, loaded.playbook)
        texts[rehearsed.file] = rehearsed.text
        wanted, places = from_outside(playbook, rehearsed.inputs, rehearsed.file), dict(rehearsed.places)
    for path in files:
        texts[path], read, at = _read_inputs(path)
        wanted, places = wanted | from_outside(playbook, read, path), places | at
    words, problems = _from_words(playbook, given)
    wanted |= from_outside(playbook, words)
    wanted |= from_environment(playbook, wanted, os.environ)
    if terminal.asks and not problems and not _secret_is_missing(playbook, wanted):
        wanted |= from_outside(playbook, _ask_missing(playbook, wanted, terminal))
    typed, more = inputs.coerce(playbook.inputs, wanted, os.environ, COMMAND_LINE)
    misread = {problem.path for problem in problems}
    problems += [_placed(problem, places, words) for problem in more if problem.path not in misread]
    wrong = [problem for problem in problems if problem.severity == "error"]
    if problems:
        _show(problems, texts, terminal)
    if wrong:
        click.echo(terminal.paint("nothing was run", "red"), err=True)
        raise click.exceptions.Exit(int(Exit.INVALID))
    return Prepared(loaded, playbook, typed)


def as_far_as_given(playbook: Playbook, given: Sequence[str], files: Sequence[str]) -> Mapping[str, Any]:
    """Typed inputs for a look ahead: those that nobody gave, and that have no default, are Unknown. InvalidError."""
    from runbook.interpreter import inputs
    from runbook.interpreter.unknown import Unknown
    from runbook.runner.given import from_environment, from_outside

    wanted: dict[str, Any] = {}
    for path in files:
        wanted |= from_outside(playbook, _read_inputs(path)[1], path)
    words, problems = _from_words(playbook, given)
    wanted |= from_outside(playbook, words)
    wanted |= from_environment(playbook, wanted, os.environ)
    known = tuple(
        entry for entry in playbook.inputs if entry.name in wanted or not entry.required or _in_environment(entry)
    )
    typed, more = inputs.coerce(known, wanted, os.environ, COMMAND_LINE)
    misread = {problem.path for problem in problems}
    found = (*problems, *(problem for problem in more if problem.path not in misread))
    wrong = [problem for problem in found if problem.severity == "error"]
    if wrong:
        raise InvalidError("the inputs do not fit the playbook", tuple(wrong))
    absent = {entry.name: Unknown(f"the input {entry.name}") for entry in playbook.inputs if entry not in known}
    return {**typed, **absent}


def _show(problems: Sequence[Problem], texts: Mapping[str, str], terminal: Terminal) -> None:
    from runbook.cli import problems as rendering

    click.echo(rendering.render_text(tuple(problems), texts, terminal.color), err=True, nl=False)


def _placed(problem: Problem, places: Mapping[str, Place], words: Mapping[str, Any]) -> Problem:
    """At its place in the file of inputs, if the value came from there."""
    name = re.split(r"[.\[]", problem.path.removeprefix("inputs."), maxsplit=1)[0]
    return problem if name in words or name not in places else replace(problem, place=places[name])


def _from_words(playbook: Playbook, given: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """`-i name=value` by the declared types; an undeclared name is left to `coerce`, which knows what was meant."""
    declared = {entry.name: entry for entry in playbook.inputs}
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for words in given:
        name, equals, text = words.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise click.UsageError(f"-i {words}: write it as name=value")
        found[name], problem = _plain(declared[name], text) if name in declared else (text, None)
        problems += [problem] if problem is not None else []
    return found, problems


def _plain(entry: Input, text: str) -> tuple[Any, Problem | None]:
    """What was typed, as plain data, or the problem with it."""
    from runbook.interpreter import inputs

    try:
        return inputs.from_text(entry, text), None
    except inputs.Misfit as misfit:
        message = misfit.message.replace("{name}", f"`{entry.name}`", 1)
        path = f"inputs.{entry.name}"
        return text, Problem(COMMAND_LINE, message, path=path, expected=misfit.expected, hint=misfit.hint, rule="input")


def _read_inputs(path: str) -> tuple[str, dict[str, Any], dict[str, Place]]:
    """A file of inputs: its text, the values, and where each stands."""
    from runbook.interpreter import source
    from runbook.runner import files

    try:
        text = files.read(path)
    except FileNotFoundError as error:
        raise InvalidError(f"--inputs {path}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise InvalidError(f"--inputs {path}: not UTF-8") from None
    document = source.parse(text, path)
    wrong = tuple(problem for problem in document.problems if problem.severity == "error")
    if wrong:
        raise InvalidError(f"--inputs {path} is not YAML as runbook reads it", wrong)
    plain = document.data if document.data is not None else {}
    if not isinstance(plain, Mapping):
        raise InvalidError(f"--inputs {path}: a map of names and values is wanted")
    return text, {str(name): plain[name] for name in plain}, {str(name): document.place(plain, name) for name in plain}


def _secret_is_missing(playbook: Playbook, given: Mapping[str, Any]) -> bool:
    """Whether the run will be refused for want of a secret's reference: then nothing has to be asked for before."""
    return any(
        entry.secret and entry.required and entry.name not in given and not _in_environment(entry)
        for entry in playbook.inputs
    )


def _in_environment(entry: Input) -> bool:
    return bool(entry.from_env) and entry.from_env in os.environ


def _ask_missing(playbook: Playbook, given: Mapping[str, Any], terminal: Terminal) -> dict[str, Any]:
    """Required inputs that nobody gave, one after the other."""
    return {
        entry.name: _ask_one(entry, terminal)
        for entry in playbook.inputs
        if entry.name not in given and entry.required and not entry.secret and not _in_environment(entry)
    }


def _ask_one(entry: Input, terminal: Terminal) -> Any:
    """Ask until it fits; the plain value."""
    from runbook.interpreter import inputs

    choices = f" ({', '.join(map(str, entry.enum))})" if entry.enum else f" ({entry.type})"
    if entry.description:
        terminal.say(f"  {one_line(entry.description)}")
    while True:
        typed: str = click.prompt(f"  {entry.name}{choices}", type=str, err=terminal.aside)
        found, problem = _plain(entry, typed)
        more = inputs.coerce((entry,), {entry.name: found}, {}, COMMAND_LINE)[1] if problem is None else (problem,)
        if not more:
            return found
        for one in more:
            terminal.say(f"  {one.message}" + (f"; {one.expected}" if one.expected else ""))


# -- the world around a run


def _scenario(scenario: str, playbook: Playbook | None) -> Any:
    from runbook.sandbox import scenario as scenarios

    if Path(scenario).name == COORDINATES:
        return scenarios.Scenario()
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

    if Path(scenario).name == COORDINATES:
        yield replace(here, surroundings=surroundings.attach(Path(scenario)))
        return
    with surroundings.start(_scenario(scenario, playbook)) as sandbox:
        yield replace(here, surroundings=sandbox.surroundings)
        for words in sandbox.unmodelled:
            click.echo(f"SIMULATED: not modelled, so not rehearsed: {words}", err=True)


def asker(
    terminal: Terminal,
    around: session.World,
    quiet: Callable[[], contextlib.AbstractContextManager[None]],
    settled: Callable[[str], str],
) -> Callable[[Question], people.Answer | None] | None:
    """Who answers questions: the scenario of a rehearsal, then whoever sits at the terminal; None: nobody.

    `settled`: as the `Asker` has it.
    """
    from runbook.cli.asking import Asker

    here = Asker(terminal, quiet, settled) if terminal.asks else None
    if not around.surroundings.simulated:
        return here

    def ask(question: Question) -> people.Answer | None:
        answered = around.surroundings.answer(f"manual.{question.kind}", question.options)
        if answered is None:
            return here(question) if here is not None else None
        return replace(_from_scenario(question, answered), scenario=around.surroundings.environ["RUNBOOK_SIMULATED"])

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
