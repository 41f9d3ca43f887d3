"""Data is never code, in a shell's text too (actions.md): what is not quoted does not run, what is quoted is data."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from runbook.interpreter.expressions import pieces, render
from runbook.interpreter.shell_text import inside_quotes
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


HARMFUL = ("$(touch pwned)", "'; touch pwned; '", "`touch pwned`", '"; touch pwned; "')


@pytest.mark.parametrize(
    "text",
    [
        "echo '{{ inputs.x | shell_quote }}'",
        'echo "{{ inputs.x | shell_quote }}"',
        'echo "it is $(date) {{ inputs.x | shell_quote }}"',
        "echo a\\'b 'c {{ inputs.x | shell_quote }}'",
        "true # it's\necho '{{ inputs.x | shell_quote }}'",
    ],
)
def test_inside_quotes_nothing_is_quoted_and_a_real_shell_shows_it(text: str, tmp_path: Path) -> None:
    assert inside_quotes(pieces(text)) is not None
    done = []
    for value in HARMFUL:
        command = render(text, {"inputs": {"x": value}})
        subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)
        done.append((tmp_path / "pwned").exists())
    assert any(done), "then it need not be refused"


def test_inside_backticks_a_real_shell_loses_what_is_quoted(tmp_path: Path) -> None:
    text = "echo `printf %s {{ inputs.x | shell_quote }}`"
    assert inside_quotes(pieces(text)) is not None
    command = render(text, {"inputs": {"x": "a`b"}})
    said = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert b"a`b" not in said.stdout


@pytest.mark.parametrize(
    "text",
    [
        "printf %s {{ inputs.x | shell_quote }}",
        "printf '%s' {{ inputs.x | shell_quote }} 'end'",
        'printf "%s" a{{ inputs.x | shell_quote }}"b"',
        'echo "$(printf %s {{ inputs.x | shell_quote }})"',
        'echo "$(printf "%s" {{ inputs.x | shell_quote }})"',
        "echo \\' {{ inputs.x | shell_quote }}",
        'echo "\\"" {{ inputs.x | shell_quote }}',
        "true # it's a comment\nprintf %s {{ inputs.x | shell_quote }}",
        "echo a#'b' {{ inputs.x | shell_quote }}",
        "(cd . && printf %s {{ inputs.x | shell_quote }})",
    ],
)
def test_outside_quotes_it_is_data_and_a_real_shell_shows_it(text: str, tmp_path: Path) -> None:
    assert inside_quotes(pieces(text)) is None
    for value in HARMFUL:
        command = render(text, {"inputs": {"x": value}})
        said = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=True)
        assert value.encode() in said.stdout
        assert not (tmp_path / "pwned").exists()


def test_an_expression_inside_quotes_is_an_error(cli: Commands) -> None:
    cli.write("p.yaml", playbook("'echo \"{{ inputs.x | shell_quote }}\"'"))
    said = cli("validate", "p.yaml")
    assert said.code == 2
    assert "stands inside quotes, and `shell_quote` brings quotes of its own" in said.err
