"""runbook as a library."""

from __future__ import annotations

from pathlib import Path

import pytest

import runbook
from runbook.interpreter.errors import Exit, InvalidError
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from runbook.runner.world import World

TEXT = """\
runbook: 1
name: lib
inputs: {word: {type: string}}
steps:
  - {id: put, action: file.write, with: {content: "{{ inputs.word }}", to: out.txt}}
outputs: {said: "{{ inputs.word }}"}
"""


def test_load_plan_run(tmp_path: Path) -> None:
    file = tmp_path / "lib.yaml"
    file.write_text(TEXT)
    world = World(store=Store(tmp_path / "home"), surroundings=Real({}))
    assert runbook.load(file).playbook is not None
    plan = runbook.plan(file, {"word": "hello"}, world=world)
    assert [row.verdict for row in plan.rows] == ["change"]
    assert not (tmp_path / "out.txt").exists()
    seen: list[str] = []
    ended = runbook.run(file, {"word": "hello"}, world=world, listeners=[lambda event: seen.append(event.kind)])
    assert ended.exit == Exit.SUCCEEDED
    assert ended.outcome is not None
    assert ended.outcome.outputs == {"said": "hello"}
    assert (tmp_path / "out.txt").read_text() == "hello"
    assert seen[0] == "run.begun"
    assert seen[-1] == "run.ended"


def test_what_is_wrong_is_raised_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "lib.yaml"
    file.write_text(TEXT.replace("steps:", "stepz: []\nstep: []\nsteps:"))
    with pytest.raises(InvalidError) as raised:
        runbook.load(file)
    assert len(raised.value.problems) == 2
    file.write_text(TEXT)
    with pytest.raises(InvalidError) as raised:
        runbook.run(file, {"wort": 1})
    assert {problem.severity for problem in raised.value.problems} == {"error"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        runbook.nothing
