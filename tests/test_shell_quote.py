"""Data is never code, in a shell's text too (actions.md): what is not quoted does not run, what is quoted is data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import Commands

HOSTILE = "a; touch pwned; $(touch pwned) `touch pwned` ' \" touch pwned"


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def playbook(command: str, before: str = "") -> str:
    return (
        "runbook: 1\nname: p\ninputs: {x: {type: string}, words: {type: list, default: [printf, '%s', done]}}\nsteps:\n"
        f"{before}  - {{id: a, action: shell.run, with: {{command: {command}}}, undo: none}}\n"
        'outputs: {said: "{{ steps.a.outputs.stdout }}"}\n'
    )


def test_a_command_with_an_input_in_it_is_an_error_before_anything_runs(cli: Commands) -> None:
    cli.write("p.yaml", playbook('"echo {{ inputs.x }}"'))
    for words in (("validate", "p.yaml"), ("run", "p.yaml", "--yes", "-i", f"x={HOSTILE}")):
        said = cli(*words)
        assert said.code == 2
        assert "p.yaml:5:57: error: `inputs.x` gives text that is run as code" in said.err
        assert "expected: `{{ inputs.x | shell_quote }}`, or a list" in said.err
    assert not (cli.folder / "pwned").exists()


@pytest.mark.parametrize("command", ['"printf %s {{ inputs.x | shell_quote }}"', '[printf, "%s", "{{ inputs.x }}"]'])
def test_what_is_quoted_arrives_whole(cli: Commands, command: str) -> None:
    cli.write("p.yaml", playbook(command))
    said = cli("run", "p.yaml", "--yes", "-i", f"x={HOSTILE}")
    assert said.code == 0, said.err
    assert not (cli.folder / "pwned").exists()
    assert json.loads(cli("report", "--format", "json").out)["outputs"] == {"said": HOSTILE}


def test_a_command_that_is_one_template_is_a_list_or_nothing_is_run(cli: Commands) -> None:
    values = "  - {{id: s, action: flow.set, with: {{values: {{command: {}}}}}}}\n"
    cli.write("text.yaml", playbook('"{{ steps.s.outputs.command }}"', values.format('"echo {{ inputs.x }}"')))
    said = cli("run", "text.yaml", "--yes", "-i", f"x={HOSTILE}")
    assert said.code == 1
    assert "`command` is one template, and it gave text" in said.err + said.out
    assert not (cli.folder / "pwned").exists()
    cli.write("list.yaml", playbook('"{{ steps.s.outputs.command }}"', values.format('[echo, "{{ inputs.x }}"]')))
    assert cli("run", "list.yaml", "--yes", "-i", f"x={HOSTILE}").code == 0
    assert not (cli.folder / "pwned").exists()
    cli.write("words.yaml", playbook('"{{ inputs.words }}"'))
    assert cli("run", "words.yaml", "--yes", "-i", "x=1").code == 0
