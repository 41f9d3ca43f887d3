"""Commands for authors: validate, new, graph."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbook.cli import output_file
from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit, InternalError, InvalidError, Problem

if TYPE_CHECKING:
    from runbook.interpreter.load import Loaded

PICTURES = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".txt": "mermaid"}
MOST_LETTERS = 60  # of a name that is made
SKELETON = """\
# yaml-language-server: $schema={schema}
runbook: 1
name: "{name}"
description: What this brings back, and when to use it.

inputs:
  environment: {{type: string, enum: [production, staging], default: staging}}

timeout: 10m

objectives:
  recovered: 5m

locks: ["{name}/{{{{ inputs.environment }}}}"]

steps:
  - id: look
    name: Is it really down?
    action: shell.run
    with: {{command: [echo, "looking at {{{{ inputs.environment }}}}"]}}
    effect: read

  - id: approve
    name: A person agrees
    action: manual.approve
    with: {{message: "Roll back {{{{ inputs.environment }}}}?"}}
    timeout: 15m

  - id: act
    name: Bring it back
    action: shell.run
    with: {{command: [echo, rolled back]}}
    undo:
      steps:
        - {{id: take_back, action: shell.run, with: {{command: [echo, as it was]}}}}
    milestone: recovered

finally:
  steps:
    - {{id: keep, action: report.write, with: {{name: report.md}}}}
"""


def read(file: str) -> Loaded:
    """Load a playbook from disk with everything that it calls; problems are in the result."""
    from runbook.runner import files, registry

    return files.read_playbook(file, registry.catalogue())


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Those that forbid a run."""
    return [problem for problem in problems if problem.severity == "error"]


def show_problems(loaded: Loaded, terminal: Terminal) -> None:
    """All problems of a file on stderr, each where it stands."""
    from runbook.cli import problems

    if loaded.problems:
        click.echo(problems.render_text(loaded.problems, loaded.files, terminal.color), err=True, nl=False)


@click.command(short_help="Check playbooks; every problem with its place.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option(
    "--output", type=click.Choice(["text", "json", "sarif"]), default="text", help="json, sarif: for editors and CI."
)
def validate(files: tuple[str, ...], output: str) -> int:
    """Check playbooks, and all that they call, without running anything. Shows every problem with its place."""
    from runbook.cli import problems

    terminal = Terminal.of_process()
    loaded = {file: read(file) for file in files}
    found = tuple(dict.fromkeys(problem for one in loaded.values() for problem in one.problems))
    if output == "json":
        click.echo(problems.render_json(found))
    elif output == "sarif":
        click.echo(problems.render_sarif(found))
    else:
        for file, one in loaded.items():
            show_problems(one, terminal)
            if not errors(one.problems):
                click.echo(f"{terminal.paint('✓', 'green')} {file}{_size(one)}")
    return int(Exit.INVALID if errors(found) else Exit.SUCCEEDED)


def _size(loaded: Loaded) -> str:
    if loaded.playbook is None:
        return ": fit to be imported"
    from runbook.interpreter import worst_case
    from runbook.runner import shape
    from runbook.runner.wording import span

    count = sum(1 for _ in shape.walk(loaded.playbook))
    most = worst_case.worst_case(loaded.playbook)
    cleanup = f" and {span(most.cleanup)} of clean-up" if most.cleanup else ""
    return f": {count} step{'s' if count != 1 else ''}, at most {span(most.work)}{cleanup}"


@click.command(short_help="Write a first playbook.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="The playbook's name; default: the file's.")
def new(file: Path, name: str | None) -> None:
    """Write a first playbook to FILE: it validates, and shows the parts that matter."""
    path = file if file.suffix in (".yaml", ".yml") else file.with_name(file.name + ".yaml")
    text = first(name if name is not None else path.stem)
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise InvalidError(f"{path} is there already", hint="nothing was written; choose another name") from None
    except OSError as error:
        raise InvalidError(f"{path}: {error.strerror}") from None
    click.echo(f"wrote {path}\n  runbook validate {shlex.quote(str(path))}\n  runbook plan {shlex.quote(str(path))}")


def first(name: str) -> str:
    """The text of a first playbook that is called so, or nearly so where that is no name. It was validated."""
    from runbook.interpreter.load import load
    from runbook.runner import registry

    text = SKELETON.format(name=slug(name), schema=_schema(registry.SCHEMAS))
    wrong = errors(load("playbook.yaml", {"playbook.yaml": text}.__getitem__, registry.catalogue()).problems)
    if wrong:
        raise InternalError(f"the first playbook would be wrong: {wrong[0].message}")
    return text


def slug(text: str) -> str:
    """A playbook's name made of any text: itself where it is a name, else its letters and digits without accents.

    `playbook` where nothing is left.
    """
    from runbook.interpreter.grammar import ROOT

    rule = ROOT["name"]
    if re.fullmatch(rule["pattern"], text) and "\n" not in text and len(text) <= rule["maxLength"]:
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", plain)[:MOST_LETTERS].strip("-._") or "playbook"


def _schema(folder: Path) -> str:
    """Where an editor finds the language's schema: the installed file."""
    return (folder.parent / "playbook.schema.json").resolve().as_uri()


@click.command(short_help="Draw a playbook as SVG or Mermaid.")
@click.argument("file", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(["svg", "mermaid"]), help="Default: by the file's ending, else mermaid."
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="Write it there instead of stdout.")
def graph(file: str, form: str | None, path: Path | None) -> int:
    """Draw a playbook: its steps, branches and handlers, as SVG or as Mermaid text."""
    from runbook.runner import graph as pictures

    chosen = output_file.form_of(path, form, PICTURES, "mermaid")
    loaded = read(file)
    output_file.spare(path, [file, *loaded.files])
    if errors(loaded.problems) or loaded.playbook is None:
        show_problems(loaded, Terminal.of_process())
        return int(Exit.INVALID)
    text = pictures.svg(loaded.playbook) if chosen == "svg" else pictures.mermaid(loaded.playbook)
    if path is None:
        click.echo(text, nl=False)
        return int(Exit.SUCCEEDED)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidError(f"{path}: {error.strerror}") from None
    click.echo(f"wrote {path}", err=True)
    return int(Exit.SUCCEEDED)
