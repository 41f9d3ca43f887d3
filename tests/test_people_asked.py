"""Questions for people as a user meets them: asked only if they can be answered, told as far as they are answered."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
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


APPROVAL = "id: ok, action: manual.approve, with: {message: Go on?, by: 2}"


def test_after_the_first_of_two_approvals_it_is_said_who_is_still_asked(cli: Commands) -> None:
    write(cli, APPROVAL)
    assert cli("run", "p.yaml").code == 5
    answered = cli("answer", "last", "ok", "approve")
    assert (answered.code, answered.out) == (0, "answered: 1 of 2; still asked: anybody else\n")
    shown = cli("show").out
    assert "ok: Go on?   (1 of 2; still asked: anybody else)" in shown
    assert "ok approve\n" in shown
    resumed = cli("resume")
    assert resumed.code == 5
    assert "1 of 2; still asked: anybody else" in resumed.out
    assert "1 of 2; still asked: anybody else" in cli("show").out, "also when a process has read it"


def test_a_variable_makes_nobody_a_second_person(cli: Commands) -> None:
    """Whose account it is counts; of root's, who called sudo, as root can be anybody anyway."""
    me, other = pwd.getpwuid(os.getuid()).pw_name, "daemon"
    write(cli, APPROVAL)
    cli("run", "p.yaml")
    assert f"by {me}" in cli("show").out.splitlines()[0]
    cli("answer", "last", "ok", "approve")
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        again = cli("answer", "last", "ok", "approve", environ={name: other})
        assert (again.code, f"{me} has answered already" in again.err) == (3, True)
    sudo = cli("answer", "last", "ok", "approve", environ={"SUDO_USER": other})
    assert sudo.code == (0 if os.getuid() == 0 else 3)
    nobody = cli("run", "p.yaml", environ={"SUDO_USER": "no-such-account"})
    assert f"by {me}" in cli("show").out.splitlines()[0], nobody.err


def test_an_answer_that_decides_is_told_as_such(cli: Commands) -> None:
    write(cli, APPROVAL)
    cli("run", "p.yaml")
    answered = cli("answer", "last", "ok", "decline")
    assert "nobody runs it now, so go on with: runbook resume" in answered.out
    shown = cli("show").out
    assert "(answered: decline by" in shown
    assert "runbook answer" not in shown


def test_a_cancel_that_nobody_has_read_is_shown(cli: Commands) -> None:
    write(cli, APPROVAL)
    cli("run", "p.yaml")
    told = cli("cancel", "--why", "wrong day")
    assert "nobody runs it now; the cancel takes effect with: runbook resume" in told.out
    shown = cli("show").out
    assert ": wrong day; not acted on yet" in shown
    assert "runbook answer" not in shown
    assert f"Next      runbook resume {facts(cli)['run']}   (cleans up)" in shown
    assert "waiting, to be cancelled" in cli("runs").out
    again = cli("cancel")
    assert "was told already" in again.out
    resumed = cli("resume")
    assert resumed.code == 4, resumed.out + resumed.err
    assert "to be cancelled" not in cli("runs").out


STEPS = """\
  - {id: work, action: shell.run, with: {command: "false"}}
on_failure:
  steps:
    - {id: ap2, action: manual.approve, with: {message: Tidy up?}}
"""
EACH = """\
  - id: each
    foreach: {items: [a], as: it}
    steps: [{id: pick, action: manual.choose, with: {message: Which?, choices: {"it's $HOME": x, b: y}}}]
"""


@pytest.mark.parametrize("steps", [STEPS, EACH])
def test_a_command_that_is_offered_can_be_pasted(cli: Commands, steps: str) -> None:
    """Into bash, with `!` as a history expansion and `[` as a glob that must match: nothing of it is special."""
    cli.write("p.yaml", HEAD + "steps:\n" + steps)
    assert cli("run", "p.yaml").code == 5
    offered = [line.removeprefix("  Next").strip() for line in cli("show").out.splitlines() if "runbook answer" in line]
    assert len(offered) == 2
    assert [line.strip() for line in cli("answer", "last").out.splitlines() if "runbook answer" in line] == offered
    for line in offered:
        heard = subprocess.run(
            ["bash", "--norc", "-i", "-O", "failglob"],
            input=f"runbook() {{ printf '<%s>' \"$@\"; }}\nset -H\n{line}\nexit\n",
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "".join(f"<{word}>" for word in shlex.split(line)[1:]) in heard.stdout, heard.stderr
    chosen = shlex.split(offered[0])
    assert cli(*chosen[1:]).code == 0
