"""Commands, streams and exit codes, as a shell sees them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import urllib.parse
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.cli import crash, main, writing
from runbook.cli.examples import EXAMPLES
from runbook.interpreter.errors import Exit
from runbook.interpreter.load import load
from runbook.runner import registry, report
from runbook.runner.journal import Event, Journal
from runbook.runner.view import fold
from tests.command import Commands, end, until

GOOD = """\
runbook: 1
name: good
inputs:
  who: {type: string, default: you}
objectives: {greeted: 1m}
steps:
  - {id: greet, action: shell.run, with: {command: [echo, "hello {{ inputs.who }}"]}, milestone: greeted}
outputs: {said: "{{ steps.greet.outputs.stdout }}"}
"""

FAILS = """\
runbook: 1
name: fails
steps:
  - id: deploy
    on_failure: undo
    steps:
      - {id: write, action: file.write, with: {to: out.txt, content: new}}
      - {id: break, action: shell.run, with: {command: "echo no such host >&2; exit 3"}, undo: none}
"""

ASKS = """\
runbook: 1
name: asks
steps:
  - {id: write, action: file.write, with: {to: out.txt, content: new}}
  - {id: agree, action: manual.approve, with: {message: "Go on?"}}
  - {id: after, action: shell.run, with: {command: [echo, after]}}
"""

SLOW = """\
runbook: 1
name: slow
steps:
  - {id: begin, action: shell.run, with: {command: "touch begun; sleep 30"}}
finally:
  steps:
    - {id: tidy, action: shell.run, with: {command: [touch, tidied]}}
"""

HEAVY = ("jinja2", "kubernetes", "jsonschema", "ruamel", "asyncio", "cryptography", "rich", "urllib3", "yaml")


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def the_run(cli: Commands) -> str:
    return str(json.loads(cli("runs", "--output", "json").out)[0]["run"])


# -- exit codes and streams


def test_a_run_that_succeeds(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    said = cli("run", "good.yaml", "-i", "who=me")
    assert said.code == Exit.SUCCEEDED
    assert said.err == ""
    assert "good succeeded" in said.out
    assert "greeted: met" in said.out
    assert "said = hello me" in said.out
    assert (cli.home / "runs" / the_run(cli) / "report.html").is_file()


def test_a_run_that_fails_says_what_where_undone_left_and_next(cli: Commands) -> None:
    cli.write("fails.yaml", FAILS)
    said = cli("run", "fails.yaml")
    assert said.code == Exit.FAILED
    ending = said.out[said.out.index("✗ fails failed") :]
    assert re.search(r"What +exit status 3: no such host", ending)
    assert re.search(r"Where +deploy/break · fails.yaml:8 · shell.run", ending)
    assert re.search(r"Undone +deploy/write \(file.write\)", ending)
    assert re.search(r"Left +deploy/break \(shell.run\)", ending)
    assert re.search(rf"Next +runbook report {the_run(cli)}", ending)
    assert not (cli.folder / "out.txt").exists()
    shown = cli("show")
    assert shown.code == 0
    assert ending[ending.index("What") : ending.index("Report")] in shown.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "missing.yaml"), "missing.yaml"),
        (("run",), "no playbook"),
        (("run", "good.yaml", "-i", "who"), "name=value"),
        (("run", "good.yaml", "-i", "woh=me"), "woh"),
        (("run", "good.yaml", "--inputs", "nowhere.yaml"), "nowhere.yaml"),
        (("run", "good.yaml", "--wait-lok"), "--wait-lok"),
        (("rnu", "good.yaml"), "did you mean 'run'"),
        (("show", "nothing"), "no run"),
        (("resume", "nothing"), "no run"),
        (("actions", "shell.rum"), "did you mean shell.run"),
        (("schema", "nonsense"), "no schema"),
        (("apply", "good.yaml"), "not a saved plan"),
        (("prune", "--older-than", "soon"), "not an age"),
        (("report", "x", "--format", "pdf"), "pdf"),
    ],
)
def test_a_wrong_command_line_is_exit_2_with_a_sentence(cli: Commands, words: tuple[str, ...], sentence: str) -> None:
    cli.write("good.yaml", GOOD)
    said = cli(*words)
    assert said.code == Exit.INVALID
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_missing_input_is_exit_2_and_nothing_was_run(cli: Commands) -> None:
    cli.write("needs.yaml", GOOD.replace("{type: string, default: you}", "{type: integer}"))
    for words in (("run", "needs.yaml"), ("run", "needs.yaml", "-i", "who=many")):
        said = cli(*words)
        assert said.code == Exit.INVALID
        assert "who" in said.err
        assert "nothing was run" in said.err
    assert not (cli.home / "runs").exists()


def test_an_assertion_before_the_first_change_is_exit_3(cli: Commands) -> None:
    cli.write(
        "guard.yaml",
        "runbook: 1\nname: guard\nsteps:\n"
        '  - {id: ready, action: flow.assert, with: {that: "{{ 1 == 2 }}", message: no backup from today}}\n'
        "  - {id: act, action: shell.run, with: {command: [touch, acted]}}\n",
    )
    said = cli("run", "guard.yaml")
    assert said.code == Exit.REFUSED
    assert "no backup from today" in said.out
    assert not (cli.folder / "acted").exists()


def test_a_held_lock_is_exit_3_and_says_who_holds_it(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW.replace("steps:", "locks: [db]\nsteps:", 1))
    first = cli.start("run", "slow.yaml")
    try:
        until((cli.folder / "begun").exists)
        said = cli("run", "slow.yaml")
        assert said.code == Exit.REFUSED
        assert "db" in said.out + said.err
        assert str(first.pid) in said.out + said.err or the_first(cli) in said.out + said.err
    finally:
        code, _, _ = end(first, signal.SIGINT)
    assert code == Exit.CANCELLED


def the_first(cli: Commands) -> str:
    return str(json.loads(cli("runs", "--output", "json").out)[-1]["run"])


def test_ctrl_c_cancels_cleans_up_and_is_exit_4(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW)
    process = cli.start("run", "slow.yaml")
    until((cli.folder / "begun").exists)
    code, out, err = end(process, signal.SIGINT)
    assert code == Exit.CANCELLED
    assert "slow cancelled" in out
    assert "Traceback" not in err
    assert (cli.folder / "tidied").exists()


def test_another_process_cancels(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW)
    process = cli.start("run", "slow.yaml")
    try:
        until((cli.folder / "begun").exists)
        said = cli("cancel", "--why", "wrong cluster")
        assert said.code == 0
        assert "was told" in said.out
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == Exit.CANCELLED
    assert "wrong cluster" in out


def test_waiting_for_a_person_is_exit_5_and_answer_and_resume_go_on(cli: Commands) -> None:
    cli.write("asks.yaml", ASKS)
    said = cli("run", "asks.yaml")
    assert said.code == Exit.WAITING
    assert "Go on?" in said.out
    assert f"runbook answer {the_run(cli)} agree" in said.out
    assert "waiting" in cli("runs").out
    assert "runbook answer" in cli("show").out
    assert cli("answer", "last", "agree", "perhaps").code == Exit.REFUSED
    assert cli("answer", "last", "disagree", "yes").code == Exit.INVALID
    assert "approve" in cli("answer", "last").out
    assert cli("answer", "last", "agree", "approve", "--comment", "tested").code == 0
    done = cli("resume")
    assert done.code == Exit.SUCCEEDED, done.out + done.err
    assert "succeeded" in done.out
    assert "tested" in cli("report").out


def test_a_refusal_is_exit_4(cli: Commands) -> None:
    cli.write("asks.yaml", ASKS)
    cli("run", "asks.yaml")
    cli("answer", "last", "agree", "no", "--comment", "not now")
    said = cli("resume")
    assert said.code == Exit.CANCELLED
    assert "not now" in said.out


def test_in_doubt_is_exit_6_and_a_decision_goes_on(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW.replace("sleep 30", "sleep 300"))
    process = cli.start("run", "slow.yaml")
    until((cli.folder / "begun").exists)
    end(process, signal.SIGKILL)
    assert "stopped" in cli("runs").out
    said = cli("resume")
    assert said.code == Exit.IN_DOUBT, said.out + said.err
    assert "--in-doubt" in said.out
    done = cli("resume", "--in-doubt", "done")
    assert done.code == Exit.SUCCEEDED, done.out + done.err


def test_a_changed_journal_is_exit_70_and_nothing_is_touched(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    cli("run", "good.yaml")
    assert cli("verify").code == 0
    import sqlite3

    db = sqlite3.connect(cli.home / "runs" / the_run(cli) / "journal.db")
    db.execute("update events set data = replace(data, 'hello', 'jello') where kind = 'call.result'")
    db.commit()
    db.close()
    said = cli("verify")
    assert said.code == Exit.BUG
    assert "was changed" in said.err
    assert cli("undo").code == Exit.BUG


def test_verify_accepts_the_digest_that_the_report_names(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    cli("run", "good.yaml")
    head = json.loads(cli("report", "--format", "json").out)["head"]
    assert cli("verify", "last", "--head", head).code == 0
    assert cli("verify", "last", "--head", "0" * 64).code == Exit.BUG


def test_undo_takes_back_and_says_so(cli: Commands) -> None:
    cli.write("good.yaml", FAILS.replace("exit 3", "exit 0").replace("undo: none", "undo: none, effect: read"))
    assert cli("run", "good.yaml").code == 0
    assert (cli.folder / "out.txt").read_text() == "new"
    said = cli("undo")
    assert said.code == 0, said.out + said.err
    assert "Undone    deploy/write" in said.out
    assert not (cli.folder / "out.txt").exists()


def test_jsonl_is_the_journal_as_it_was_written(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    said = cli("run", "good.yaml", "--output", "jsonl")
    assert said.code == 0
    told = [json.loads(line) for line in said.out.splitlines()]
    journal = Journal.open(cli.home / "runs" / the_run(cli) / "journal.db", readonly=True)
    recorded = list(journal.events())
    journal.close()
    assert [(e["seq"], e["kind"], e["key"], e["data"]) for e in told if e["seq"]] == [
        (e.seq, e.kind, e.key, dict(e.data)) for e in recorded
    ]
    again = fold(Event(**{**e, "digest": ""}) for e in told)
    again.head = again.digest = ""
    once = fold(recorded)
    once.head = once.digest = ""
    assert report.to_data(again) == report.to_data(once)


def test_the_reader_of_our_output_may_leave(cli: Commands) -> None:
    done = subprocess.run(
        f"{sys.executable} -m runbook.cli actions | head -1",
        shell=True, capture_output=True, text=True, cwd=cli.folder, env=cli.variables(), timeout=30, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


# -- plan and apply


def test_plan_shows_and_changes_nothing_and_apply_does_just_that(cli: Commands) -> None:
    cli.write(
        "change.yaml",
        "runbook: 1\nname: change\nsteps:\n  - {id: write, action: file.write, with: {to: out.txt, content: new}}\n",
    )
    said = cli("plan", "change.yaml", "-o", "plan.json")
    assert said.code == 0
    assert "1 change" in said.out
    assert not (cli.folder / "out.txt").exists()
    assert cli("run", "change.yaml", "--dry-run").code == 0
    assert not (cli.folder / "out.txt").exists()
    assert json.loads(cli("plan", "change.yaml", "--output", "json").out)["name"] == "change"
    done = cli("apply", "plan.json")
    assert done.code == 0, done.out + done.err
    assert (cli.folder / "out.txt").read_text() == "new"
    (cli.folder / "out.txt").write_text("somebody else's")
    stale = cli("apply", "plan.json")
    assert stale.code == Exit.REFUSED, stale.out + stale.err
    assert "moved" in stale.out
    assert (cli.folder / "out.txt").read_text() == "somebody else's"


# -- looking


def test_runs_of_a_new_home(cli: Commands) -> None:
    said = cli("runs")
    assert (said.code, said.err) == (0, "")
    assert str(cli.home) in said.out
    assert json.loads(cli("runs", "--output", "json").out) == []


def test_logs_of_all_steps_and_of_one(cli: Commands) -> None:
    cli.write(
        "two.yaml",
        GOOD.replace("steps:", "steps:\n  - {id: first, action: shell.run, with: {command: [echo, one]}}", 1),
    )
    cli("run", "two.yaml")
    assert re.search(r"first +one\n.*greet +hello you", cli("logs").out)
    assert cli("logs", "last", "greet").out == "hello you\n"
    assert cli("logs", "last", "-f").out == cli("logs").out


def test_logs_follow_a_run_to_its_end(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW.replace("touch begun; sleep 30", "touch begun; echo one; sleep 2; echo two"))
    process = cli.start("run", "slow.yaml")
    try:
        until((cli.folder / "begun").exists)
        said = cli("logs", "-f", "last", "begin")
        assert said.out == "one\ntwo\n"
    finally:
        process.communicate(timeout=20)


def test_reports_in_three_forms(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    cli("run", "good.yaml")
    assert cli("report").out.startswith("# good: succeeded")
    assert json.loads(cli("report", "--format", "json").out)["status"] == "succeeded"
    said = cli("report", "last", "-o", "r.html")
    assert (said.code, said.out) == (0, "")
    page = (cli.folder / "r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<svg" in page


def test_a_damaged_journal_is_listed_as_such(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    cli("run", "good.yaml")
    (cli.home / "runs" / the_run(cli) / "journal.db").write_bytes(b"not a database" * 100)
    said = cli("runs")
    assert said.code == 0
    assert "damaged" in said.out


@pytest.mark.parametrize(
    "words", [("--help",), ("runs",), ("show",), ("logs",), ("report",), ("verify",), ("--version",)]
)
def test_what_only_looks_imports_nothing_heavy(cli: Commands, words: tuple[str, ...]) -> None:
    cli.write("fails.yaml", FAILS)
    cli("run", "fails.yaml")

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runbook.cli", *words],
        capture_output=True, text=True, cwd=cli.folder, env=cli.variables(), timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not imported & set(HEAVY)


# -- writing


def test_a_new_playbook_validates_plans_and_runs(cli: Commands) -> None:
    assert cli("new", "mine").code == 0
    said = cli("validate", "mine.yaml")
    assert (said.code, said.err) == (0, ""), said.err
    assert cli("plan", "mine.yaml").code == 0
    assert cli("run", "mine.yaml").code == Exit.WAITING
    again = cli("new", "mine.yaml")
    assert again.code == Exit.INVALID
    assert "is there already" in again.err


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.text(max_size=100), st.sampled_from(["2024", "true", "null", "Überfall!", "~", "a\n", "x" * 99, "'"]))
)
def test_a_new_playbook_is_right_whatever_it_is_called(name: str) -> None:
    loaded = load("p.yaml", {"p.yaml": writing.first(name)}.__getitem__, registry.catalogue())
    assert loaded.problems == ()
    assert loaded.playbook is not None
    assert writing.slug(loaded.playbook.name) == loaded.playbook.name


@pytest.mark.parametrize(
    ("words", "named"),
    [(["2024"], "2024"), (["true"], "true"), (["null"], "null"), (["x", "--name", "Überfall!"], "uberfall")],
)
def test_a_new_playbook_with_a_hard_name(cli: Commands, words: list[str], named: str) -> None:
    assert cli("new", *words).code == 0
    file = f"{words[0]}.yaml"
    assert cli("validate", file).code == 0
    assert f'name: "{named}"' in (cli.folder / file).read_text()


def test_validate_shows_every_problem_with_its_place(cli: Commands) -> None:
    cli.write("bad.yaml", GOOD.replace("action: shell.run", "acton: shell.run").replace("default: you", "defualt: you"))
    said = cli("validate", "bad.yaml")
    assert said.code == Exit.INVALID
    assert "bad.yaml:4:" in said.err
    assert "bad.yaml:7:" in said.err
    assert "action" in said.err
    found = json.loads(cli("validate", "bad.yaml", "--output", "json").out)
    assert found
    sarif = json.loads(cli("validate", "bad.yaml", "--output", "sarif").out)
    assert sarif["version"] == "2.1.0"
    assert sarif["runs"][0]["results"]


def test_validate_of_several_files(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    cli.write("bad.yaml", "runbook: 1\nstpes: []\n")
    said = cli("validate", "good.yaml", "bad.yaml")
    assert said.code == Exit.INVALID
    assert "good.yaml: 1 step" in said.out


def test_graphs(cli: Commands) -> None:
    cli.write("fails.yaml", FAILS)
    text = cli("graph", "fails.yaml")
    assert text.code == 0
    assert text.out.startswith("flowchart TD")
    assert cli("graph", "fails.yaml", "-o", "g.svg").code == 0
    assert ET.parse(cli.folder / "g.svg").getroot().tag.endswith("svg")


def test_actions_and_schemas_are_printed(cli: Commands) -> None:
    assert "shell.run" in cli("actions").out
    page = cli("actions", "shell.run").out
    assert "command" in page
    assert "required" in page
    facts = json.loads(cli("actions", "shell", "--output", "json").out)
    assert [fact["name"] for fact in facts] == ["shell.run"]
    shipped = Path(__file__).parent.parent / "schemas" / "playbook.schema.json"
    assert cli("schema").out == shipped.read_text(encoding="utf-8")
    assert "shell.run" in json.loads(cli("schema", "shell").out)["$defs"]
    generated = json.loads(cli("schema", "--family", "shell").out)
    assert generated == json.loads(cli("schema", "shell").out)


# -- machine


def test_doctor_says_what_it_found_and_that_file_locks_hold_on_one_machine(cli: Commands) -> None:
    said = cli("doctor")
    assert said.code == 0, said.out
    assert "this machine only" in said.out


def test_doctor_of_a_playbook_names_the_secret_that_is_missing(cli: Commands) -> None:
    cli.write("s.yaml", GOOD.replace("steps:", "secrets: {token: {env: TOKEN_X}}\nsteps:", 1))
    said = cli("doctor", "s.yaml")
    assert said.code == Exit.FAILED
    assert "TOKEN_X is not set" in said.out


def test_prune_keeps_what_is_not_over(cli: Commands) -> None:
    cli.write("asks.yaml", ASKS)
    cli.write("good.yaml", GOOD)
    cli("run", "good.yaml")
    cli("run", "asks.yaml")
    said = cli("prune", "--older-than", "0s", "--keep", "0", "--dry-run")
    assert "1 would be deleted" in said.out
    assert cli("prune", "--older-than", "0s", "--keep", "0").code == 0
    left = json.loads(cli("runs", "--output", "json").out)
    assert [(entry["name"], entry["state"]) for entry in left] == [("asks", "waiting")]


def test_prune_deletes_runs_that_never_began(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    cli("run", "good.yaml")
    runs = cli.home / "runs"
    names = [
        "20200101-000000-old-aaa",
        "20200102-000000-torso-bbb",
        time.strftime("%Y%m%d-%H%M%S-new-ccc", time.gmtime()),
    ]
    for name in names:
        (runs / name).mkdir(mode=0o700)
    Journal.create(runs / names[0] / "journal.db", names[0]).close()
    Journal.create(runs / names[2] / "journal.db", names[2]).close()
    states = {entry["run"]: entry["state"] for entry in json.loads(cli("runs", "--output", "json").out)}
    assert (states[names[0]], states[names[2]]) == ("never begun", "never begun")
    said = cli("prune", "--older-than", "30d", "--keep", "0")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [*names[:2], "deleted 2"]
    assert names[2] in [path.name for path in runs.iterdir()], "it may be about to begin"
    assert len(list(runs.iterdir())) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_completes(cli: Commands, shell: str) -> None:
    assert "_RUNBOOK_COMPLETE" in cli("completion", shell).out


def test_bash_completes_commands_and_options(cli: Commands) -> None:
    words = {"_RUNBOOK_COMPLETE": "bash_complete", "COMP_WORDS": "runbook res", "COMP_CWORD": "1"}
    assert "resume" in cli(environ=words).out


def test_the_version(cli: Commands) -> None:
    import runbook

    assert cli("--version").out == f"runbook {runbook.__version__}\n"


# -- what must not be seen

CANARY = "c4n4ry-S3cret/+&=ä 'x'"


def canary_forms() -> list[str]:
    """The canary as it may come back: plain, base64 at its three alignments in other text, escaped, in hexadecimal."""
    raw = CANARY.encode()
    return [
        CANARY,
        *(base64.b64encode(before + raw + b" and more").decode() for before in (b"", b"x", b"xx")),
        urllib.parse.quote(CANARY, safe=""),
        urllib.parse.quote_plus(CANARY),
        json.dumps(CANARY)[1:-1],
        raw.hex(),
    ]


def seen(text: str) -> list[str]:
    """What of the canary can be read in a text. Of base64 the middle is enough."""
    return [form for form in canary_forms() if form[4 : len(CANARY)] in text]


def test_no_help_shows_the_environment(cli: Commands) -> None:
    for name in ("", *main.COMMANDS):
        said = cli(*([name] if name else []), "--help", environ={"API_TOKEN": CANARY, "RUNBOOK_TOKEN": CANARY})
        assert said.code == 0
        assert not seen(said.out + said.err)


def test_a_bug_is_exit_70_with_a_private_masked_crash_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("API_TOKEN", CANARY)

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("; ".join(canary_forms()))

    assert len(seen("; ".join(canary_forms()))) == 8

    monkeypatch.setattr(main.cli, "main", broken)
    assert main.perform(["run", "x", "-i", f"token={CANARY}"]) == Exit.BUG
    err = capsys.readouterr().err
    path = Path(re.search(r"crash log: (\S+)", err)[1])  # type: ignore[index]
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    text = path.read_text()
    assert "ZeroDivisionError" in text
    assert not seen(text + err)


def test_masking_leaves_the_rest_alone() -> None:
    assert crash.masked("a TOKEN=abcdef; x", {"TOKEN": "abcdef", "HOME": "a"}) == "a TOKEN=‹TOKEN›; x"


def test_bugs_that_are_no_exceptions_are_bugs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path / "home"))

    class Odd(BaseException):
        pass

    def broken(*_: Any, **__: Any) -> None:
        raise Odd

    monkeypatch.setattr(main.cli, "main", broken)
    assert main.perform([]) == Exit.BUG
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_has_help_of_one_line() -> None:
    runner = CliRunner()
    listed = runner.invoke(main.cli, ["--help"]).output
    for name, where in main.COMMANDS.items():
        assert re.search(rf"^  {name} +\S", listed, re.MULTILINE), where
        assert runner.invoke(main.cli, [name, "--help"]).exit_code == 0
    assert "..." not in listed[listed.index("Run:") :]
    assert {name for names in main.SECTIONS.values() for name in names} == set(main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_help_ends_with_examples_that_are_commands(name: str) -> None:
    """Each is parsed as it stands; without --help nobody pays for them."""
    shown = CliRunner().invoke(main.cli, [name, "--help"]).output
    lines = shown[shown.index("Example") :].splitlines()[1:]
    assert [line.strip().split("   ")[0] for line in lines] == [line for line, _ in EXAMPLES[name]]
    for line, _ in EXAMPLES[name]:
        found = re.search(r"runbook ([^)|]+)", line)
        assert found is not None
        words = shlex.split(found[1])
        assert words[0] == name
        command = main.cli.get_command(click.Context(main.cli), name)
        assert command is not None
        command.make_context(name, words[1:])


# -- bad input as commands

MUTANTS = 200
FAST = 2.0  # seconds
SMALL = 300 << 20  # bytes


def mutants() -> list[str]:
    """Deterministic damage to a real playbook: lines dropped, doubled, swapped, characters replaced."""
    import random

    source = Path(__file__).parent.parent / "playbooks" / "emergency.yaml"
    text = source.read_text(encoding="utf-8") if source.is_file() else FAILS
    dice = random.Random(3)
    made = []
    for _ in range(MUTANTS):
        lines = text.splitlines()
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(lines))
            kind = dice.randrange(6)
            if kind == 0:
                del lines[at]
            elif kind == 1:
                lines.insert(at, lines[dice.randrange(len(lines))])
            elif kind == 2:
                lines[at] = lines[at][: len(lines[at]) // 2]
            elif kind == 3 and lines[at]:
                where = dice.randrange(len(lines[at]))
                lines[at] = lines[at][:where] + dice.choice("{}[]:,&*!|>'\"%@`\t\x00é#-") + lines[at][where + 1 :]
            elif kind == 4:
                lines[at] = " " * dice.randint(1, 5) + lines[at]
            else:
                lines[at] = lines[at].replace("action", dice.choice(["acton", "{{", "steps"]))
        made.append("\n".join(lines) + "\n")
    return made


def _validated(cli: Commands, name: str, text: str) -> int:
    cli.write(name, text)
    with (cli.folder / f"{name}.err").open("w+b") as err:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "runbook.cli", "validate", name],
            cwd=cli.folder, env=cli.variables(), stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
        with contextlib.suppress(ProcessLookupError):  # what wait4 says of memory is the parent's, until the exec
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (SMALL, SMALL))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - began
        err.seek(0)
        said = err.read().decode()
    assert process.returncode in (0, 2), said
    assert "Traceback" not in said
    assert process.returncode == 0 or re.search(rf"(^|\s){re.escape(name)}:\d+:\d+", said, re.MULTILINE), said
    assert usage.ru_utime + usage.ru_stime < FAST, f"{name}: {took:.1f} s"
    return process.returncode


@pytest.mark.slow
def test_two_hundred_bad_files_as_commands(tmp_path: Path) -> None:
    """Exit 0 or 2, with a place, never a traceback, never over 2 s or 300 MiB."""
    cli = Commands(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda one: _validated(cli, f"m{one[0]}.yaml", one[1]), enumerate(mutants())))
    assert codes.count(2) > MUTANTS / 2
