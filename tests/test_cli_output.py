"""What commands write where: never over what they read, only what a file's ending says, and a full disk is no bug."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands

PLAYBOOK = """\
runbook: 1
name: plain
inputs: {count: {type: integer, default: 1}}
steps:
  - {id: say, action: shell.run, with: {command: [echo, hello]}, effect: read}
  - {id: never, when: 1 == 2, action: shell.run, with: {command: [echo, never]}, undo: none}
  - id: each
    foreach: {items: [1, 2], as: one}
    steps: [{id: inner, action: flow.set, with: {values: {a: "{{ one }}"}}}]
outputs: OUTPUTS
"""


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path)
    commands.write("p.yaml", PLAYBOOK.replace("OUTPUTS", "{said: '{{ steps.say.outputs.stdout }}'}"))
    commands.write("given.yaml", "count: 2\n")
    return commands


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "p.yaml", "-o", "p.yaml"], "nothing here is written as .yaml"),
        (["plan", "p.yaml", "-o", "given"], "that is what is read"),
        (["graph", "p.yaml", "-o", "p.yaml"], "nothing here is written as .yaml"),
        (["graph", "p.yaml", "-o", "g.png"], "nothing here is written as .png"),
        (["graph", "p.yaml", "--format", "mermaid", "-o", "./p.yaml"], "that is what is read"),
        (["graph", "p.yaml", "--format", "svg", "-o", "g.mmd"], "the ending says mermaid, and --format svg"),
        (["report", "-o", "x.pdf"], "nothing here is written as .pdf"),
        (["report", "--format", "json", "-o", "x.html"], "the ending says html"),
        (["schema", "-o", "x.yaml"], "nothing here is written as .yaml"),
    ],
)
def test_what_does_not_fit_is_refused(cli: Commands, words: list[str], sentence: str) -> None:
    (cli.folder / "given").write_text("count: 2\n")
    before = {path.name: path.read_bytes() for path in cli.folder.iterdir() if path.is_file()}
    more = ["--inputs", "given"] if "given" in words else []
    said = cli(*words, *more)
    assert said.code == Exit.INVALID
    assert sentence in said.err
    assert {path.name: path.read_bytes() for path in cli.folder.iterdir() if path.is_file()} == before


def test_what_fits_is_written(cli: Commands) -> None:
    assert cli("plan", "p.yaml", "-o", "plan.json").code == 0
    assert cli("graph", "p.yaml", "-o", "g.svg").code == 0
    assert (cli.folder / "g.svg").read_text().startswith("<svg")
    assert cli("run", "p.yaml", "--yes").code == 0
    for name, start in (("r.md", "#"), ("r", "#"), ("r.html", "<!"), ("r.json", "{")):
        assert cli("report", "-o", name).code == 0
        assert (cli.folder / name).read_text().startswith(start)


def test_output_that_cannot_be_written_is_no_bug(cli: Commands) -> None:
    for words in (["actions"], ["schema", "k8s"], ["validate", "p.yaml"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "runbook.cli", *words],
                cwd=cli.folder, env=cli.variables(), stdout=full, stderr=subprocess.PIPE, text=True,
                timeout=120, check=False,
            )  # fmt: skip
        assert done.returncode == Exit.FAILED, (words, done.stderr)
        assert "the output cannot be written" in done.stderr
        assert "bug" not in done.stderr


def test_logs_of_no_step(cli: Commands) -> None:
    assert cli("run", "p.yaml", "--yes").code == 0
    said = cli("logs", "last", "nevr")
    assert said.code == Exit.INVALID
    assert "has no step nevr" in said.err
    assert "did you mean `never`?" in said.err
    for step in ("never", "each[1]/inner", "inner"):
        said = cli("logs", "last", step)
        assert (said.code, said.out) == (0, "")
        assert f"step {step} wrote nothing" in said.err


def test_doctor_says_what_is_wrong_with_an_input_once(cli: Commands) -> None:
    said = cli("doctor", "p.yaml", "-i", "count=many")
    assert said.code == Exit.INVALID
    assert said.err.count("`count` cannot be many") == 1
    assert "expected: an integer" in said.err


def test_an_output_that_cannot_be_computed_is_a_warning_of_a_run_that_succeeded(cli: Commands) -> None:
    outputs = "{said: '{{ steps.say.outputs.stdout }}', wrong: '{{ 1 / 0 }}', skipped: '{{ steps.never.outputs.rc }}'}"
    cli.write("p.yaml", PLAYBOOK.replace("OUTPUTS", outputs))
    said = cli("run", "p.yaml", "--yes")
    assert said.code == 0
    told = json.loads(cli("report", "--format", "json").out)
    assert told["outputs"]["wrong"] is None
    assert [one for one in map(str, told["warnings"]) if "the output `wrong` cannot be computed, and is null" in one]
    assert "skipped" not in str(told["warnings"])  # its step was not run
    cli.write("p.yaml", PLAYBOOK.replace("OUTPUTS", outputs).replace("[echo, hello]", "['false']"))
    assert cli("run", "p.yaml", "--yes").code == 1
    assert "cannot be computed" not in cli("report", "--format", "json").out


def test_a_plan_applied_again_finds_everything_so_and_a_third_state_is_refused(cli: Commands) -> None:
    """docs/decisions/0018-a-plan-applied-twice.md."""
    cli.write("w.yaml", "runbook: 1\nname: w\nsteps: [{id: a, action: file.write, with: {to: mark, content: new}}]\n")
    (cli.folder / "mark").write_text("old")
    assert cli("plan", "w.yaml", "-o", "plan.json").code == 0
    assert cli("apply", "plan.json", "--yes").code == 0
    again = cli("apply", "plan.json", "--yes")
    assert (again.code, (cli.folder / "mark").read_text()) == (0, "new")
    assert "already so" in again.out
    (cli.folder / "mark").write_text("somebody's")
    refused = cli("apply", "plan.json", "--yes")
    assert refused.code == Exit.REFUSED
    assert "has moved since the plan was made" in refused.out + refused.err
    assert (cli.folder / "mark").read_text() == "somebody's"
