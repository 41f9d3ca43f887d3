"""Secrets of whole runs, as commands: weak ones are warned of, absent optional ones are left out, missing ones refuse
before anything is asked.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands, Screen, end, until

WEAK = """\
runbook: 1
name: weak
inputs: {given: {type: string, secret: true}}
secrets: {short: {env: SHORT}, open: {file: open.txt}}
steps:
  - {id: uses, action: shell.run, effect: read, with: {command: ["true"], env: {A: "{{ secrets.short }}"}}}
  - {id: given, action: shell.run, effect: read, with: {command: ["true"], env: {A: "{{ inputs.given }}"}}}
  - {id: called, playbook: called.yaml, with: {given: "{{ inputs.given }}"}}
  - {id: waits, action: flow.wait, with: {for: 1s}}
  - {id: again, action: shell.run, effect: read, with: {command: ["true"], env: {A: "{{ secrets.open }}"}}}
"""
CALLED = """\
runbook: 1
name: called
inputs: {given: {type: string, secret: true}}
secrets: {short: {env: SHORT}, open: {file: open.txt}}
steps:
  - {id: uses, action: shell.run, effect: read, with: {command: ["true"], env: {A: "{{ inputs.given }}"}}}
"""
WARNINGS = [
    "secret given has fewer than 8 characters: it is masked as a whole word only",
    "secret open: open.txt can be read by every user (chmod 600 would do)",
    "secret short has fewer than 8 characters: it is masked as a whole word only",
]


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    cli = Commands(tmp_path, {"SHORT": "short1", "GIVEN": "given1"})
    for name, text in {"weak.yaml": WEAK, "called.yaml": CALLED, "open.txt": "long-enough-1"}.items():
        cli.write(name, text)
    (tmp_path / "open.txt").chmod(0o644)
    return cli


def _warned(lines: str) -> Counter[str]:
    events = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return Counter(event["data"]["message"] for event in events if event["kind"] == "warning")


def test_a_run_warns_of_weak_secrets_as_its_plan_does_once_each(cli: Commands) -> None:
    """Whatever reads them, and however often: a called playbook, an input, a resume."""
    given = ("weak.yaml", "-i", "given={env: GIVEN}")
    planned = cli("plan", *given)
    assert [sentence for sentence in WARNINGS if sentence in planned.out] == WARNINGS
    ran = cli("run", *given, "--output", "jsonl")
    assert ran.code == Exit.SUCCEEDED, ran.out + ran.err
    assert _warned(ran.out) == Counter(WARNINGS)
    shown = cli("run", *given)
    assert [shown.out.count(sentence) for sentence in WARNINGS] == [2, 2, 2], "as it happens, and at the end"
    killed = cli.start("run", *given)
    until(lambda: sum(b"waits" in path.read_bytes() for path in cli.home.glob("runs/*/journal.db*")) >= 3)
    end(killed)
    resumed = cli("resume", "--output", "jsonl")
    assert resumed.code == Exit.SUCCEEDED, resumed.out + resumed.err
    listed = json.loads(cli("show", "--output", "json").out)
    assert sorted(Counter(map(str, listed["warnings"])).values()) == [1, 1, 1], listed["warnings"]


OPTIONAL = """\
runbook: 1
name: optional
secrets: {gone: {env: NOWHERE, optional: true}, there: {env: GIVEN, optional: true}}
steps:
  - id: it
    action: shell.run
    effect: read
    with:
      command: 'echo "${A-none} ${B:+some} ${C-none}"'
      env:
        A: "{{ secrets.gone }}"
        B: "{{ secrets.there }}"
        C: "{{ secrets.gone if secrets.gone is defined else 'no' }}"
  - {id: asked, action: http.request, effect: read, on_failure: continue,
     with: {url: "http://127.0.0.1:9/", headers: {Authorization: "{{ secrets.gone }}"}}}
outputs: {said: "{{ steps.it.outputs.stdout }}", error: "{{ steps.asked.error.message }}"}
"""


def test_the_variable_of_an_optional_secret_that_is_not_there_is_left_out(cli: Commands) -> None:
    cli.write("optional.yaml", OPTIONAL)
    assert cli("plan", "optional.yaml").code == Exit.SUCCEEDED
    said = cli("run", "optional.yaml")
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    report = json.loads(cli("report", "--format", "json").out)
    assert report["outputs"]["said"] == "none some no\n"
    assert "expected text" not in report["outputs"]["error"], "its header is left out, and the server was asked"


def test_who_sits_there_is_asked_nothing_for_a_run_that_lacks_a_secret(cli: Commands) -> None:
    """Not the other inputs first, and then a refusal: a reference is too long to type at night."""
    cli.write(
        "asks.yaml",
        "runbook: 1\nname: asks\ninputs: {reason: {type: string}, s: {type: string, secret: true}}\n"
        "steps: [{id: w, action: flow.wait, with: {for: 1s}}]\n",
    )
    screen = Screen.start(cli, "run", "asks.yaml")
    assert screen.end() == Exit.INVALID
    assert "`s` is missing" in screen.shown
    assert "-i 's={env: NAME}'" in screen.shown
    assert "reason (" not in screen.shown
    screen = Screen.start(cli, "run", "asks.yaml", "-i", "s={env: GIVEN}")
    screen.answer(("reason", "because\n"))
    assert screen.end() == Exit.SUCCEEDED, screen.shown
