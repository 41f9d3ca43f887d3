"""Paths are relative to the file that they stand in, what is typed to the folder that one is in: as commands.

Beside each file that is meant lies, in the folder of the shell, another one of the same name: to take that one silently
would be worse than to find none.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from runbook.interpreter.located import all_located
from runbook.interpreter.model import Input
from runbook.interpreter.unknown import Unknown
from tests.command import Commands, end, until

MAIN = """\
runbook: 1
name: main
import: [lib/common.yaml]
inputs:
  typed: {type: path}
  filed: {type: path}
  many: {type: list, items: {type: path}}
  own: {type: path, default: own.txt}
  from_env: {type: path, default: {from_env: A_PATH}}
  token: {type: string, secret: true}
  key: {type: string, secret: true, default: {file: key.txt}}
  out: {type: path}
secrets:
  here: {file: here.txt}
  computed: {file: "{{ inputs.own }}"}
steps:
  - {id: typed, action: file.write, with: {to: "{{ inputs.out }}/typed", from: "{{ inputs.typed }}"}}
  - {id: filed, action: file.write, with: {to: "{{ inputs.out }}/filed", from: "{{ inputs.filed }}"}}
  - {id: many, action: file.write, with: {to: "{{ inputs.out }}/many", from: "{{ inputs.many[1] }}"}}
  - {id: own, action: file.write, with: {to: "{{ inputs.out }}/own", from: "{{ inputs.own }}"}}
  - {id: shared, action: file.write, with: {to: "{{ inputs.out }}/shared", from: "{{ inputs.shared }}"}}
  - {id: from_env, action: file.write, with: {to: "{{ inputs.out }}/from_env", from: "{{ inputs.from_env }}"}}
  - id: secrets
    action: file.write
    with:
      to: "{{ inputs.out }}/secrets"
      content: "{{ secrets.here }} {{ secrets.computed }} {{ secrets.common }} {{ inputs.token }} {{ inputs.key }}"
  - id: called
    playbook: sub/called.yaml
    with:
      {literal: literal.txt, mine: "{{ inputs.own }}", theirs: "{{ inputs.typed }}", out: "{{ inputs.out }}",
       passed: "{{ secrets.here }}", named: {file: named.txt}}
"""
COMMON = """\
runbook: 1
inputs: {shared: {type: path, default: shared.txt}}
secrets: {common: {file: common.txt}}
"""
CALLED = """\
runbook: 1
name: called
inputs:
  literal: {type: path}
  mine: {type: path}
  theirs: {type: path}
  unsaid: {type: path, default: unsaid.txt}
  out: {type: path}
  passed: {type: string, secret: true}
  named: {type: string, secret: true}
secrets: {inner: {file: inner.txt}}
steps:
  - {id: literal, action: file.write, with: {to: "{{ inputs.out }}/literal", from: "{{ inputs.literal }}"}}
  - {id: mine, action: file.write, with: {to: "{{ inputs.out }}/mine", from: "{{ inputs.mine }}"}}
  - {id: theirs, action: file.write, with: {to: "{{ inputs.out }}/theirs", from: "{{ inputs.theirs }}"}}
  - {id: unsaid, action: file.write, with: {to: "{{ inputs.out }}/unsaid", from: "{{ inputs.unsaid }}"}}
  - id: inner
    action: file.write
    with: {to: "{{ inputs.out }}/inner", content: "{{ secrets.inner }} {{ inputs.passed }} {{ inputs.named }}"}
"""
MEANT = {
    "shell": ("typed.txt", "two.txt", "env.txt", "token.txt"),
    "given": ("filed.txt",),
    "book": ("own.txt", "here.txt", "key.txt", "literal.txt", "named.txt"),
    "book/lib": ("shared.txt", "common.txt"),
    "book/sub": ("unsaid.txt", "inner.txt"),
}
"""Where each file is that is meant; everywhere else there is another one of its name."""
WRITTEN = {
    "typed": "shell/typed.txt",
    "filed": "given/filed.txt",
    "many": "shell/two.txt",
    "own": "book/own.txt",
    "shared": "book/lib/shared.txt",
    "from_env": "shell/env.txt",
    "secrets": "book/here.txt book/own.txt book/lib/common.txt shell/token.txt book/key.txt",
    "literal": "book/literal.txt",
    "mine": "book/own.txt",
    "theirs": "shell/typed.txt",
    "unsaid": "book/sub/unsaid.txt",
    "inner": "book/sub/inner.txt book/here.txt book/named.txt",
}
GIVEN = ("-i", "typed=typed.txt", "--inputs", "../given/in.yaml", "-i", "many=[one.txt, two.txt]",
         "-i", "token={file: token.txt}", "-i", "out=../out")  # fmt: skip


class Folders:
    """The playbooks in one folder, the shell in another one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = [name for meant in MEANT.values() for name in meant]
        for folder in (*MEANT, "elsewhere", "out"):
            (root / folder).mkdir(parents=True)
            for name in names if folder != "out" else ():
                (root / folder / name).write_text(f"{folder}/{name}")
                (root / folder / name).chmod(0o600)
        for name, text in (("main", MAIN), ("lib/common", COMMON), ("sub/called", CALLED)):
            (root / "book" / f"{name}.yaml").write_text(text)
        (root / "given/in.yaml").write_text("filed: filed.txt\n")
        self.environ = {"RUNBOOK_HOME": str(root / "home"), "A_PATH": "env.txt"}
        self.shell, self.elsewhere = (Commands(root / name, self.environ) for name in ("shell", "elsewhere"))

    def written(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.root / "out").iterdir()}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_a_path_is_relative_to_the_file_that_it_stands_in(folders: Folders) -> None:
    planned = folders.shell("plan", "../book/main.yaml", *GIVEN)
    assert planned.code == Exit.SUCCEEDED, planned.out + planned.err
    ran = folders.shell("run", "../book/main.yaml", *GIVEN)
    assert ran.code == Exit.SUCCEEDED, ran.out + ran.err
    assert folders.written() == WRITTEN
    undone = folders.elsewhere("undo", "--yes")
    assert undone.code == Exit.SUCCEEDED, undone.out + undone.err
    assert folders.written() == {}


def test_in_the_playbook_s_own_folder_paths_stay_as_they_are_written(folders: Folders) -> None:
    here = Commands(folders.root / "book", folders.environ)
    said = here("plan", "main.yaml", *GIVEN, "--output", "json")
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    inputs = json.loads(said.out)["inputs"]
    assert (inputs["typed"], inputs["own"], inputs["many"]) == ("typed.txt", "own.txt", ["one.txt", "two.txt"])
    assert inputs["filed"] == str(folders.root / "given/filed.txt")
    assert inputs["shared"] == "lib/shared.txt"


def test_a_saved_plan_is_applied_from_any_folder(folders: Folders) -> None:
    planned = folders.shell("plan", "../book/main.yaml", *GIVEN, "-o", "plan.json")
    assert planned.code == Exit.SUCCEEDED, planned.out + planned.err
    said = folders.elsewhere("apply", "../shell/plan.json", "--yes")
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    assert folders.written() == WRITTEN


def test_a_plan_from_another_machine_says_so_or_finds_the_same_playbook_here(folders: Folders) -> None:
    """SIMULATED: the folder where it was made is gone, as it is on another machine."""
    (folders.root / "book/p.yaml").write_text(
        "runbook: 1\nname: p\nsteps: [{id: a, action: shell.run, undo: none, with: {command: [touch, made.txt]}}]\n"
    )
    there = Commands(folders.root / "book", folders.environ)
    assert there("plan", "p.yaml", "-o", "../given/plan.json").code == Exit.SUCCEEDED
    shutil.move(folders.root / "book", folders.root / "moved")
    said = folders.elsewhere("apply", "../given/plan.json", "--yes")
    assert said.code == Exit.INVALID
    assert "the playbook of this plan, p.yaml, is not in the folder where the plan was made" in said.err
    assert f"looked in {folders.root / 'book'} and {folders.root / 'elsewhere'}" in said.err
    (folders.root / "elsewhere/p.yaml").write_text(
        "runbook: 1\nname: p\nsteps: [{id: a, action: flow.wait, with: {for: 1s}}]\n"
    )
    said = folders.elsewhere("apply", "../given/plan.json", "--yes")
    assert said.code == Exit.REFUSED, "another playbook of that name"
    assert "changed since the plan was made: p.yaml" in said.err
    here = Commands(folders.root / "moved", folders.environ)
    said = here("apply", "../given/plan.json", "--yes")
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    assert (folders.root / "moved/made.txt").exists()


def test_a_killed_run_goes_on_from_any_folder(folders: Folders) -> None:
    text = MAIN.replace("steps:\n", "steps:\n  - {id: waits, action: flow.wait, with: {for: 1s}}\n", 1)
    (folders.root / "book/main.yaml").write_text(text)
    process = folders.shell.start("run", "../book/main.yaml", *GIVEN, "--yes")
    runs = folders.root / "home/runs"
    until(lambda: any("waits" in path.read_text(errors="replace") for path in runs.glob("*/journal.db*")))
    end(process)
    said = folders.elsewhere("resume")
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    assert folders.written() == WRITTEN


def test_doctor_looks_where_a_run_looks(folders: Folders) -> None:
    (folders.root / "book/here.txt").unlink()
    said = folders.shell("doctor", "../book/main.yaml")
    assert "../book/here.txt cannot be read" in said.out + said.err
    assert "../book/sub/inner.txt" in said.out + said.err


def test_what_is_no_path_and_what_is_not_known_stays(tmp_path: Path) -> None:
    declared = (Input("p", "path"), Input("s", "string"), Input("l", "list", items=Input("l", "path")))
    found = all_located(declared, {"p": 3, "s": "x", "l": ["x", "/y"], "other": "x"}, "a/b.yaml", "a/c/d.yaml")
    assert found == {"p": 3, "s": "x", "l": ["../x", "/y"], "other": "x"}
    unknown = all_located(declared, {"p": Unknown("why", likely="x")}, "a/b.yaml", "a/c/d.yaml")["p"]
    assert (unknown.why, unknown.likely) == ("why", "../x")
