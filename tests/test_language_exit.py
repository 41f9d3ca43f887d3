"""Every exit code once, as a shell sees it (docs/language.md: Exit codes)."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands, end, until


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


HEAD = "runbook: 1\nname: p\n"
WRITE = "{id: write, action: file.write, with: {to: out.txt, content: new}}"
NO = "{id: no, action: flow.assert, with: {that: false, message: not ready}}"
OK = "{id: ok, action: flow.set, with: {values: {x: 1}}}"
FAIL = '{id: fail, action: shell.run, with: {command: "exit 3"}, effect: read}'
ASK = "{id: ask, action: manual.approve, with: {message: go on}}"
TOLD = '{id: told, action: shell.run, with: {command: "touch told"}}'

# name: playbook, exit, files that are there afterwards
RUNS: dict[str, tuple[str, Exit, list[str]]] = {
    "succeeded": (f"steps: [{WRITE}]", Exit.SUCCEEDED, ["out.txt"]),
    "succeeded, with warnings": (
        f"steps: [{FAIL.replace('effect', 'on_failure: continue, effect')}]",
        Exit.SUCCEEDED,
        [],
    ),
    "failed": (f"steps: [{WRITE}, {FAIL}]", Exit.FAILED, ["out.txt"]),
    "out of time": (
        "timeout: 200ms\nsteps: [{id: w, action: flow.wait, with: {for: 1m}}]",
        Exit.FAILED,
        [],
    ),
    "the playbook is wrong": (f"steps: [{WRITE.replace('content', 'contents')}]", Exit.INVALID, []),
    "it can only be imported": ("vars: {a: 1}", Exit.INVALID, []),
    "an input is missing": (f"inputs: {{who: {{type: string}}}}\nsteps: [{WRITE}]", Exit.INVALID, []),
    "an assertion before anything was changed": (f"steps: [{NO}, {WRITE}]", Exit.REFUSED, []),
    "only the code differs: handlers still tell people": (
        f"steps: [{NO}]\non_failure: {{steps: [{TOLD}]}}",
        Exit.REFUSED,
        ["told"],
    ),
    "a fallback still swallows it": (f"steps: [{{id: f, fallback: [{NO}, {OK}]}}]", Exit.SUCCEEDED, []),
    "and what fails after that has failed": (f"steps: [{{id: f, fallback: [{NO}, {OK}]}}, {FAIL}]", Exit.FAILED, []),
    "an assertion after a change": (f"steps: [{WRITE}, {NO}]", Exit.FAILED, ["out.txt"]),
    "a secret that is not there": (
        "secrets: {s: {env: NOT_THERE}}\n"
        'steps: [{id: a, action: shell.run, with: {command: "touch told", env: {S: "{{ secrets.s }}"}}}]',
        Exit.REFUSED,
        [],
    ),
    "waiting for a person": (f"steps: [{ASK}, {WRITE}]", Exit.WAITING, []),
}


@pytest.mark.parametrize("name", RUNS)
def test_run(name: str, cli: Commands) -> None:
    text, exit_, files = RUNS[name]
    cli.write("p.yaml", HEAD + text + "\n")
    said = cli("run", "p.yaml")
    assert said.code == exit_, said.out + said.err
    assert [file for file in ("out.txt", "told") if (cli.folder / file).exists()] == files
    assert "Traceback" not in said.err


def test_declined(cli: Commands) -> None:
    cli.write("p.yaml", f"{HEAD}steps: [{ASK}, {WRITE}]\n")
    cli("run", "p.yaml")
    assert cli("answer", "last", "ask", "decline").code == Exit.SUCCEEDED
    assert cli("resume").code == Exit.CANCELLED
    assert not (cli.folder / "out.txt").exists()


def test_cancelled(cli: Commands) -> None:
    cli.write("p.yaml", f'{HEAD}steps: [{{id: a, action: shell.run, with: {{command: "touch begun; sleep 60"}}}}]\n')
    process = cli.start("run", "p.yaml")
    until((cli.folder / "begun").exists)
    code, _, _ = end(process, signal.SIGTERM)
    assert code == Exit.CANCELLED


def test_a_held_lock(cli: Commands) -> None:
    cli.write("asks.yaml", f"{HEAD}locks: [l]\nsteps: [{ASK}]\n")
    cli.write("p.yaml", f"{HEAD}locks: [l]\nsteps: [{WRITE}]\n")
    assert cli("run", "asks.yaml").code == Exit.WAITING
    assert cli("run", "p.yaml").code == Exit.REFUSED
    assert not (cli.folder / "out.txt").exists()


def test_a_stale_plan(cli: Commands) -> None:
    cli.write("p.yaml", f"{HEAD}steps: [{WRITE}]\n")
    assert cli("plan", "p.yaml", "-o", "plan.json").code == Exit.SUCCEEDED
    cli.write("out.txt", "somebody was here")
    assert cli("apply", "plan.json").code == Exit.REFUSED
    assert (cli.folder / "out.txt").read_text() == "somebody was here"


def test_in_doubt(cli: Commands) -> None:
    cli.write("p.yaml", f'{HEAD}steps: [{{id: a, action: shell.run, with: {{command: "touch begun; sleep 300"}}}}]\n')
    process = cli.start("run", "p.yaml")
    until((cli.folder / "begun").exists)
    end(process, signal.SIGKILL)
    assert cli("resume").code == Exit.IN_DOUBT
    assert cli("resume", "--in-doubt", "fail").code == Exit.FAILED, "the decision was made"


def test_a_journal_that_does_not_fit_its_playbook(cli: Commands) -> None:
    cli.write("p.yaml", f"{HEAD}steps: [{ASK}, {WRITE}]\n")
    cli("run", "p.yaml")
    journal = next((cli.home / "runs").iterdir()) / "journal.db"
    before = sqlite3.connect(journal)
    before.execute("update files set content = cast(replace(cast(content as text), 'new', 'bad') as blob)")
    before.commit()
    before.close()
    said = cli("resume")
    assert said.code == Exit.BUG
    assert not (cli.folder / "out.txt").exists()
