"""Answers of a scenario that cannot be right are told before anything is rehearsed; one that shows late, loudly."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.interpreter.errors import InvalidError
from runbook.sandbox import scenario
from tests.command import Commands

ASKS = """\
runbook: 1
name: asks
inputs: {replicas: {type: integer, default: 1}}
steps:
  - {id: pick, action: manual.choose, with: {message: Which?, choices: {green: a, blue: b}}}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path)
    commands.write("asks.yaml", ASKS)
    return commands


@pytest.mark.parametrize(
    ("answer", "message", "more"),
    [
        ("{action: shel.run, outputs: {}}", "there is no action `shel.run`", "did you mean `shell.run`?"),
        ("{action: shell.run, match: {comand: x}, outputs: {}}", "no parameter `comand`", "did you mean `command`?"),
        ("{action: shell.run, match: {command: '('}, outputs: {}}", "`command` is no regular expression", ""),
        ("{action: shell.run, outputs: {sdtout: x}}", "no output `sdtout`", "did you mean `stdout`?"),
        ("{action: shell.run, decline: no}", "asks nobody who could decline", ""),
        ("{action: manual.approve, outputs: {choice: maybe}}", "maybe is no answer", "approve or decline"),
        ("{action: manual.choose, outputs: {by: ada}}", "no answer to manual.choose", "the name of one of the choices"),
        ("{action: manual.checklist, outputs: {choice: some}}", "some is no answer", "all or none"),
        ("{action: manual.checklist, outputs: {answers: [{checked: yes}]}}", "no answer", "{text, checked, note}"),
        ("{action: manual.approve, outputs: {choice: yes, by: 3}}", "3 is no answer", "a name, or a list of them"),
    ],
)
def test_an_answer_that_fits_nothing_is_a_problem_at_its_place(answer: str, message: str, more: str) -> None:
    with pytest.raises(InvalidError) as caught:
        scenario.parse(f"scenario: 1\nanswers:\n  - {answer.replace('decline: no', 'decline: Friday')}\n", "s.yaml")
    (problem,) = caught.value.problems
    assert message in problem.message
    assert more in f"{problem.expected} {problem.hint}"
    assert problem.place.line == 3
    assert problem.place.column > 5


def test_the_command_refuses_such_a_scenario(cli: Commands) -> None:
    cli.write("s.yaml", "scenario: 1\nanswers:\n  - {action: shel.run, outputs: {}}\n")
    said = cli("run", "asks.yaml", "--yes", "--sandbox", "s.yaml")
    assert said.code == 2
    assert "s.yaml:3:14: there is no action `shel.run`" in said.err
    assert "did you mean `shell.run`?" in said.err


def test_an_answer_that_is_none_of_the_choices_fails_the_step_and_names_the_scenario(cli: Commands) -> None:
    cli.write("wrong.yaml", "scenario: 1\nanswers:\n  - {action: manual.choose, outputs: {choice: red}}\n")
    said = cli("run", "asks.yaml", "--yes", "--sandbox", "wrong.yaml")
    assert said.code == 1
    assert said.out.count("'red' is none of the choices: green, blue") < 5  # it was asked again and again
    assert "SIMULATED: the scenario wrong gives an answer that does not count" in said.out + said.err


def test_wrong_inputs_of_a_scenario_are_told_where_they_stand(cli: Commands) -> None:
    cli.write("s.yaml", "scenario: 1\ninputs:\n  replicas: many\n  colour: red\n")
    said = cli("plan", "asks.yaml", "--sandbox", "s.yaml")
    assert said.code == 2
    assert "s.yaml:3:13: error" in said.err
    assert "s.yaml:4:" in said.err
    assert "<command line>" not in said.err
