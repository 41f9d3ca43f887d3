"""Questions for people as a user meets them: asked only if they can be answered, told as far as they are answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import Commands

HEAD = "runbook: 1\nname: p\ninputs: {who: {type: string, default: ann}, map: {type: map, default: {}}}\nvars: {m: 5}\n"


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def facts(cli: Commands) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("show", "--output", "json").out)
    return found


def write(cli: Commands, *steps: str) -> None:
    cli.write("p.yaml", HEAD + "steps:\n" + "".join(f"  - {{{step}}}\n" for step in steps))


# parameters that only the run knows, and what is wrong with them
UNANSWERABLE = {
    'manual.choose, with: {message: m, choices: "{{ inputs.map }}"}': "choices is empty: there is nothing to choose",
    "manual.choose, timeout: 200ms, with: {message: m, choices: {a: x}, default: \"{{ 'q' }}\"}": (
        "default: q is not one of the choices (a)"
    ),
    'manual.approve, with: {message: m, by: "{{ 3 }}", approvers: [a]}': (
        "by: 3 needs more people than the 1 in approvers"
    ),
    "manual.approve, with: {message: m, by: \"{{ ['a'] }}\"}": "by: expected an integer, got a list",
    'manual.approve, with: {message: m, approvers: "{{ inputs.who }}"}': (
        "approvers: expected a list, got the text 'ann'"
    ),
    'manual.approve, with: {message: m, approvers: ["{{ run.initiator }}"], not_initiator: true}': (
        "by: 1 needs more people than the 0 in approvers who did not start this run"
    ),
    'manual.checklist, with: {sections: {s: "{{ [] }}"}}': "sections: s is not a list of sentences",
}


@pytest.mark.parametrize("step", UNANSWERABLE)
def test_what_nobody_could_answer_fails_its_step_and_is_not_asked(cli: Commands, step: str) -> None:
    write(cli, f"id: ask, action: {step}")
    said = cli("run", "p.yaml")
    assert said.code == 1, said.out + said.err
    assert UNANSWERABLE[step] in said.out
    assert "asks:" not in said.out
    planned = cli("plan", "p.yaml")
    knows = "run.initiator" not in step  # who runs a plan need not be who runs the playbook
    assert (UNANSWERABLE[step] in planned.out) is knows


def test_a_question_is_asked_in_words_and_its_default_is_a_choice(cli: Commands) -> None:
    """A number from a template is text where text is meant, as for every action."""
    write(
        cli,
        'id: pick, action: manual.choose, timeout: 100ms, with: {message: m, choices: {"5": x}, default: "{{ 5 }}"}',
        "id: kind, action: flow.assert, with: {that: \"{{ steps.pick.outputs.choice == '5' }}\", message: no text}",
        'id: ask, action: manual.approve, with: {message: "{{ vars.m }}"}',
    )
    said = cli("run", "p.yaml")
    while said.code == 5 and "ask: 5" not in said.out:  # it waited: its time goes on while nobody runs it
        said = cli("resume")
    assert said.code == 5, said.out + said.err
    assert "ask  asks: 5" in said.out
