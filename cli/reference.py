"""Commands that print what is known: actions, schema."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from runbook.cli import output_file
from runbook.cli.terminal import Terminal, columns, cut
from runbook.interpreter.catalogue import ActionSpec
from runbook.interpreter.errors import InvalidError
from runbook.runner import registry

NARROW = 30  # characters of a column that can still be read


def complete_actions(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the actions that begin so."""
    return [name for name in registry.catalogue() if name.startswith(typed)]


def complete_schemas(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """For the shell: the schemas that begin so."""
    shipped = sorted(file.name.removesuffix(".schema.json") for file in registry.SCHEMAS.parent.glob("*.schema.json"))
    return [
        name for name in dict.fromkeys([*shipped, *registry.FAMILIES, *registry.plugins()]) if name.startswith(typed)
    ]


@click.command(short_help="What a step can do.")
@click.argument("name", default="", shell_complete=complete_actions)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="json: for tools.")
def actions(name: str, output: str) -> None:
    """Print what a step can do. NAME: an action (k8s.patch) or a family (k8s); without it, all of them."""
    known = registry.catalogue()
    chosen = [spec for spec in known.values() if not name or name in (spec.name, spec.family)]
    if not chosen:
        near = difflib.get_close_matches(name, [*known, *{spec.family for spec in known.values()}], n=1)
        raise InvalidError(
            f"there is no action {name}", hint=f"did you mean {near[0]}?" if near else "runbook actions lists them"
        )
    if output == "json":
        click.echo(json.dumps([_facts(spec) for spec in chosen], ensure_ascii=False, indent=2))
        return
    terminal = Terminal.of_process()
    if len(chosen) == 1 and chosen[0].name == name:
        for line in _page(chosen[0], terminal):
            click.echo(line)
        return
    rows = [[spec.name, spec.effect, _first(spec.description)] for spec in chosen]
    for line in columns(rows):
        click.echo(cut(line, terminal.width) if terminal.live else line)
    click.echo(terminal.paint("\nrunbook actions NAME shows one with its parameters", "dim"))


def _facts(spec: ActionSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "class": spec.effect,
        "description": spec.description,
        "parameters": spec.parameters,
        "outputs": dict(spec.outputs),
        "irreversible": spec.irreversible,
        "idempotent": spec.idempotent,
        "undo": spec.undo,
        "until": spec.until,
        "extra": spec.extra,
    }


def _page(spec: ActionSpec, terminal: Terminal) -> Iterator[str]:
    from runbook.runner.describe import CLASSES

    yield terminal.paint(spec.name, "bold")
    yield f"  {CLASSES[spec.effect]}"
    if spec.irreversible:
        yield "  irreversible: no undo takes it back"
    if spec.extra:
        yield f"  needs: pip install 'runbook[{spec.extra}]'"
    yield ""
    for line in spec.description.splitlines():
        yield from hanging(f"  {line}", 2, terminal)
    properties: Mapping[str, Any] = spec.parameters.get("properties", {})
    if properties:
        required = spec.parameters.get("required", ())
        yield terminal.paint("\nParameters", "bold")
        rows = [
            [f"  {key}", _kind(form), _default(form, key in required), _note(form)] for key, form in properties.items()
        ]
        yield from _aligned(rows, terminal)
    if spec.outputs:
        yield terminal.paint("\nOutputs", "bold")
        yield from _aligned([[f"  {key}", text] for key, text in spec.outputs.items()], terminal)


def _aligned(rows: list[list[str]], terminal: Terminal) -> Iterator[str]:
    """Columns; on a terminal what does not fit goes on below its own column."""
    for row, line in zip(rows, columns(rows), strict=True):
        yield from hanging(line, len(line) - len(row[-1].rstrip()), terminal)


def hanging(line: str, indent: int, terminal: Terminal) -> list[str]:
    """A line in the width of a terminal, its rest indented; elsewhere as it is, for `grep`."""
    if not terminal.live or len(line) <= terminal.width:
        return [line]
    import textwrap

    head, tail = line[:indent], line[indent:]
    if terminal.width - indent < NARROW:  # the last column has no room beside the others
        return [head.rstrip(), *(f"      {part}" for part in textwrap.wrap(tail, max(10, terminal.width - 6)))]
    first, *more = textwrap.wrap(tail, terminal.width - indent, break_on_hyphens=False) or [""]
    return [head + first, *(" " * indent + part for part in more)]


def _kind(form: Mapping[str, Any]) -> str:
    if "enum" in form:
        return "|".join("null" if one is None else str(one) for one in form["enum"])
    if "anyOf" in form:
        return "|".join(_kind(option) for option in form["anyOf"])
    kinds = form.get("type", "any")
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    words = {"array": "list", "object": "map", "string": "duration" if form.get("format") == "duration" else "text"}
    return "|".join(words.get(name, name) for name in names)


def _default(form: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    return f"= {json.dumps(form['default'], ensure_ascii=False)}" if "default" in form else ""


def _note(form: Mapping[str, Any]) -> str:
    marks = [mark for mark in ("secret", "path", "family") if form.get(f"x-{mark}")]
    return str(form.get("description", "")) + (f" [{', '.join(marks)}]" if marks else "")


def _first(text: str) -> str:
    return text.partition("\n")[0].partition(". ")[0].rstrip(".")


@click.command(short_help="Print a JSON Schema, for editors.")
@click.argument("name", default="playbook", shell_complete=complete_schemas)
@click.option("--family", help="Generate the schema of a family from its code: for authors of plug-ins.")
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="Write it there instead of stdout.")
def schema(name: str, family: str | None, path: Path | None) -> None:
    """Print a JSON Schema: `playbook` (for an editor, with the plug-ins), `scenario`, or an action's family."""
    output_file.form_of(path, None, {".json": "json"}, "json")
    text = _generated(family) if family else _shipped(name)
    if path is None:
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidError(f"{path}: {error.strerror}") from None
    click.echo(f"wrote {path}", err=True)


def _shipped(name: str) -> str:
    if name == "playbook":
        from runbook.interpreter.editor import assemble

        return json.dumps(assemble(registry.catalogue()), ensure_ascii=False, indent=2) + "\n"
    document = registry.family_schema(name)
    if document is not None:
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    folder = registry.SCHEMAS.parent
    try:
        return (folder / f"{Path(name).name}.schema.json").read_text(encoding="utf-8")
    except OSError:
        known = sorted(file.name.removesuffix(".schema.json") for file in folder.glob("*.schema.json"))
        raise InvalidError(
            f"there is no schema {name}", hint=f"there are: {', '.join(known)}, and each family"
        ) from None


def _generated(family: str) -> str:
    from runbook.runner import describe

    entry = registry.plugins().get(family)
    if entry is None and family not in registry.FAMILIES:
        raise InvalidError(
            f"no family {family} is installed", hint=f"a plug-in names it in its entry points, group {registry.GROUP}"
        )
    import importlib

    module, _, attribute = (registry.FAMILIES[family] if entry is None else entry.value).partition(":")
    found = getattr(importlib.import_module(module), attribute or "ACTIONS")
    return json.dumps(describe.family_document(family, found), ensure_ascii=False, indent=2) + "\n"
