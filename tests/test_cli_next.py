"""The last lines of a command: what became of the whole run, and the command that goes on, wherever there is one."""

from __future__ import annotations

import json
import shlex
import sqlite3
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def the_run(cli: Commands) -> str:
    return str(json.loads(cli("runs", "--output", "json").out)[0]["run"])


REFUSES = """\
runbook: 1
name: refuses
inputs:
  who: {type: string}
  least: {type: duration, default: 90s}
  tags: {type: list, default: []}
  file: {type: path, default: x}
steps:
  - {id: look, action: file.stat, with: {paths: [ready]}}
  - id: ready
    action: flow.assert
    with: {that: "{{ (steps.look.outputs.files.values() | first).exists }}", message: make it ready first}
  - {id: told, action: flow.set, with: {values: {who: "{{ inputs.who }}", tags: "{{ inputs.tags }}"}}}
outputs: {told: "{{ steps.told.outputs }}"}
"""


def test_a_refused_run_ends_with_the_command_that_begins_it_anew(cli: Commands) -> None:
    cli.write("refuses.yaml", REFUSES)
    refused = cli("run", "refuses.yaml", "-i", "who=it's $HOME!", "-i", "tags=[a, b]")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    (line,) = (line for line in refused.out.splitlines() if line.startswith("  Next"))
    command, note = line.removeprefix("  Next").strip().rsplit("   ", 1)
    assert note == "(when what stands above is mended)"
    assert shlex.split(command)[3:] == ["-i", "who=it's $HOME!", "-i", 'tags=["a", "b"]'], "no default is given again"
    assert f"Next      {command}   " in cli("show").out
    cli.write("ready", "")
    anew = cli(*shlex.split(command)[1:])
    assert anew.code == Exit.SUCCEEDED, anew.out + anew.err
    assert """told = {"who": "it's $HOME!", "tags": ["a", "b"]}""" in anew.out


def test_a_refused_rehearsal_is_never_begun_anew_in_the_real_world(cli: Commands) -> None:
    cli.write("refuses.yaml", REFUSES)
    cli.write("world.yaml", "scenario: 1\nname: small\n")
    refused = cli("run", "refuses.yaml", "-i", "who=me", "--sandbox", "world.yaml")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    assert " --sandbox SCENARIO   (when what stands above is mended)" in refused.out


def test_a_second_undo_tells_what_the_first_one_took_back(cli: Commands) -> None:
    cli.write(
        "two.yaml",
        "runbook: 1\nname: two\nsteps:\n"
        "  - {id: first, action: file.write, undo: none, with: {to: a, content: new}}\n"
        "  - {id: second, action: file.write, with: {to: b, content: new}}\n",
    )
    assert cli("run", "two.yaml").code == Exit.SUCCEEDED
    undone = cli("undo", "--yes")
    assert "Undone    second (file.write)\n" in undone.out, undone.out + undone.err
    again = cli("undo", "--yes")
    assert "Undone    nothing more\n            second (file.write), before: by an earlier undo\n" in again.out
    assert "second (file.write), before: by an earlier undo\n" in cli("show").out


def test_a_damaged_journal_and_a_newer_one_have_words_of_their_own(cli: Commands) -> None:
    cli.write("good.yaml", "runbook: 1\nname: good\nsteps: [{id: a, action: flow.set, with: {values: {x: 1}}}]\n")
    for _ in range(2):
        cli("run", "good.yaml")
    newer, damaged = (cli.home / "runs" / str(run["run"]) for run in json.loads(cli("runs", "--output", "json").out))
    (damaged / "journal.db").write_bytes(b"not a database" * 100)
    with sqlite3.connect(newer / "journal.db") as journal:
        journal.execute("pragma user_version = 99")
    listed = cli("runs").out
    assert "· damaged" in listed
    assert "· newer, needs the newer runbook" in listed
    of_damaged, of_newer = cli("verify", damaged.name), cli("verify", newer.name)
    assert f"nothing of it can be read; what its steps said and kept is in {damaged}" in of_damaged.err
    assert "runbook verify" not in of_damaged.err
    assert "use the newer runbook for this run" in of_newer.err
