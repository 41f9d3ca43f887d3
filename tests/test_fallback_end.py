"""A fallback of which no alternative succeeded: its end names each of them, the first one first. As a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands

PLAYBOOK = """\
runbook: 1
name: ways
steps:
  - id: out
    fallback:
      - {id: traffic, action: shell.run, with: {command: "echo no such host >&2; exit 3"}, effect: read}
      - {id: never, when: "1 > 2", action: shell.run, with: {command: "true"}, effect: read}
      - id: image
        on_failure: abort
        steps:
          - {id: look, action: flow.set, with: {values: {n: 1}}}
          - {id: go, action: flow.assert, with: {that: false, message: "the image is gone"}}
      - id: deeper
        fallback:
          - {id: one, action: shell.run, with: {command: "exit 4"}, effect: read}
          - {id: two, action: shell.run, with: {command: "sleep 30"}, effect: read, timeout: 200ms}
on_failure:
  steps:
    - id: told
      action: file.write
      with:
        to: told.json
        content: "{{ failure | to_json }}"
"""
TOGETHER = (
    "no alternative succeeded (traffic: exit status 3: no such host; image/go: the image is gone; "
    "deeper: no alternative succeeded (one: exit status 4; two: "
)


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    made = Commands(tmp_path / "here")
    made.folder.mkdir()
    made.write("p.yaml", PLAYBOOK)
    return made


def test_screen_report_and_handlers_name_each_alternative(cli: Commands) -> None:
    ran = cli("run", "p.yaml", "--yes")
    assert ran.code == Exit.FAILED, ran.out + ran.err
    for shown in (ran.out, cli("show").out):
        lines = shown.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("  What "))
        what = [line[12:] for line in lines[at : at + 5]]
        assert what[0] == "no alternative succeeded:"
        assert what[1] == "traffic: exit status 3: no such host"
        assert what[2] == "image, go: the image is gone"
        assert what[3].startswith("deeper: no alternative succeeded (one: exit status 4; two: ")
        assert what[4].startswith("out · p.yaml:4")
    told = json.loads((cli.folder / "told.json").read_text())
    assert (told["step"], told["path"], told["others"]) == ("out", "out", [])
    assert told["error"]["message"].startswith(TOGETHER), told
    facts = json.loads(cli("report", "--format", "json").out)
    assert facts["culprit"] == "out"
    assert facts["error"]["message"] == told["error"]["message"]
    assert "**What happened:** out: no alternative succeeded (traffic: " in cli("report").out
