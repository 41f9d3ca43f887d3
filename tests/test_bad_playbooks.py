"""tests/cases/bad-*: a playbook with a mistake, and the page that `runbook validate` shows for it.

RUNBOOK_UPDATE_CASES=1 writes the pages anew; read every difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runbook.cli.problems import count, render_json, render_sarif, render_text
from runbook.interpreter.load import Loaded, load

from .catalogue_toy import catalogue

CASES = Path(__file__).parent / "cases"
BAD = sorted(case.name for case in CASES.glob("bad-*"))


def loaded(case: Path) -> Loaded:
    def read(path: str) -> str:
        return (case / path).read_bytes().decode("utf-8")

    return load("playbook.yaml", read, catalogue())


@pytest.mark.parametrize("name", BAD)
def test_the_page_of_a_mistake(name: str) -> None:
    case = CASES / name
    result = loaded(case)
    page = render_text(result.problems, result.files, color=False)
    expected = case / "expected.txt"
    if os.environ.get("RUNBOOK_UPDATE_CASES") == "1":
        expected.write_text(page, encoding="utf-8")
    assert page == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BAD)
def test_every_mistake_has_its_place_and_a_way_out(name: str) -> None:
    result = loaded(CASES / name)
    assert result.problems
    only_warnings = all(problem.severity == "warning" for problem in result.problems)
    assert (result.playbook is not None) == only_warnings
    for problem in result.problems:
        assert problem.place.line > 0, problem
        assert problem.place.column > 0, problem
        assert (
            problem.expected
            or problem.hint
            or problem.rule in ("reference", "recursion", "expression", "bounds", "file")
        ), problem


@pytest.mark.parametrize("name", BAD)
def test_programs_read_the_same(name: str) -> None:
    problems = loaded(CASES / name).problems
    listed = json.loads(render_json(problems))
    assert [one["message"] for one in listed["problems"]] == [one.message for one in problems]
    assert listed["errors"] + listed["warnings"] == len(problems)
    sarif = json.loads(render_sarif(problems))
    (run,) = sarif["runs"]
    assert sarif["version"] == "2.1.0"
    for result, problem in zip(run["results"], problems, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == problem.rule
        region = result["locations"][0]["physicalLocation"]["region"]
        assert (region["startLine"], region["startColumn"]) == (problem.place.line, problem.place.column)
        assert result["level"] == problem.severity


def test_there_are_enough_cases_and_they_count_in_words() -> None:
    assert len(BAD) >= 60
    assert count(loaded(CASES / "bad-form-ansible-words").problems).endswith("errors")


def test_a_file_cannot_speak_to_the_terminal() -> None:
    for text, shown in (
        ('runbook: 1\nname: x\nsteps:\n  - {id: a, action: "k8s.\\e[31m\\aget"}\n', "k8s"),
        ("runbook: 1\nname: \x9b31m\n", "U+009B"),
    ):

        def read(path: str, text: str = text) -> str:
            return text

        result = load("\x1b]0;playbook.yaml", read, catalogue())
        page = render_text(result.problems, result.files, color=False)
        assert shown in page
        assert not [char for char in page if char != "\n" and not char.isprintable()]
        assert "\033[" in render_text(result.problems, result.files, color=True)
