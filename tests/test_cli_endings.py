"""How the end of a run reads: who is to blame, what stands, what is left, and nothing said twice."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runbook.cli import ending, main
from runbook.cli.screen import tree
from runbook.cli.telling import Lines
from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit
from runbook.runner.journal import Event
from runbook.runner.view import fold
from runbook.runner.wording import together, without_step
from tests.command import PATIENCE, Commands, end

PLAIN = Terminal(live=False, asks=False, color=False)
START = 1_763_766_000.0
WAYS = """\
runbook: 1
name: ways
steps:
  - id: recover
    name: One of several ways
    fallback:
      - id: first
        on_failure: abort
        steps:
          - {id: try, action: shell.run, with: {command: "echo no light >&2; exit 3"}, effect: read}
      - id: second
        on_failure: abort
        steps:
          - {id: again, action: shell.run, with: {command: "echo no wind >&2; exit 4"}, effect: read}
      - {id: third, when: "false", action: shell.run, with: {command: "true"}, effect: read}
"""
ACCEPTED = """\
runbook: 1
name: accepted
steps:
  - {id: talk, action: shell.run, with: {command: "true"}, undo: none}
  - {id: fail, action: shell.run, with: {command: "exit 3"}, effect: read}
"""
SLOW = """\
runbook: 1
name: slow
steps:
  - {id: say, action: shell.run, with: {command: "echo hello"}, effect: read}
  - {id: nap, action: flow.wait, with: {for: 60s}}
"""
GROUND = "no kubeconfig was found"


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def said(*made: tuple[str, str, dict[str, Any]]) -> list[Event]:
    return [Event(i, kind, key, data, i, START + i, f"{i:064x}") for i, (kind, key, data) in enumerate(made, 1)]


def lines_of(*made: tuple[str, str, dict[str, Any]]) -> list[str]:
    """What the screen without a terminal says."""
    stream = io.StringIO()
    lines = Lines(PLAIN, stream=stream)
    for event in said(*made):
        lines(event)
    return stream.getvalue().splitlines()


def test_a_fallback_is_blamed_with_each_of_its_ways(cli: Commands) -> None:
    cli.write("ways.yaml", WAYS)
    told = cli("run", "ways.yaml")
    assert told.code == Exit.FAILED
    last_lines = told.out[told.out.index("✗ ways failed") :].splitlines()
    assert last_lines[1:4] == [
        "  What      no alternative succeeded:",
        "            first, try: exit status 3: no light",
        "            second, again: exit status 4: no wind",
    ]
    assert "  Where     recover (One of several ways) · ways.yaml:4" in last_lines
    shown = cli("show").out
    assert re.search(r"✗ first +failed, next one tried", shown)
    assert re.search(r"✗ second +failed, \d", shown), "nothing was tried after it"
    assert "What happened:** recover: no alternative succeeded" in cli("report").out


def test_of_ways_that_were_tried_the_one_that_was_going_on_is_to_blame() -> None:
    """The time was over in the second way: the first, which had failed before, is history."""
    view = fold(
        said(
            ("step.started", "f", {"id": "f", "kind": "fallback"}),
            ("step.started", "f/a", {"id": "a", "kind": "action"}),
            ("step.ended", "f/a", {"id": "a", "status": "failed", "error": {"message": "of a"}}),
            ("step.started", "f/b", {"id": "b", "kind": "action"}),
            ("step.ended", "f/b", {"id": "b", "status": "timed_out", "error": {"message": "of b"}}),
            ("step.ended", "f", {"id": "f", "kind": "fallback", "status": "timed_out"}),
        )
    )
    culprit = view.culprit()
    assert culprit is not None
    assert culprit.key == "f/b"


def test_a_step_that_was_cut_names_the_time_that_was_over(cli: Commands) -> None:
    cut = "steps: [{id: nap, action: flow.wait, with: {for: 60s}}]"
    cli.write("run.yaml", f"runbook: 1\nname: all\ntimeout: 1s\n{cut}\n")
    assert "  What      all was not done in its time of 1s\n  Where     nap · run.yaml:4" in cli("run", "run.yaml").out
    cli.write("part.yaml", f"runbook: 1\nname: all\nsteps:\n  - id: part\n    timeout: 1s\n    {cut}\n")
    told = cli("run", "part.yaml").out
    assert "  What      part was not done in its time of 1s\n  Where     part/nap · part.yaml:6" in told


def test_what_has_no_undo_stands_and_no_undo_is_offered(cli: Commands) -> None:
    cli.write("accepted.yaml", ACCEPTED)
    told = cli("run", "accepted.yaml")
    assert told.code == Exit.FAILED
    assert "  Left      talk (shell.run) stands (`undo: none`)\n" in told.out
    assert "runbook undo" not in told.out
    assert "stands (\\`undo: none\\`)" in cli("report").out


def test_clean_up_that_was_left_and_is_done_now_is_no_cancel() -> None:
    """The run was cancelled twice, and resumed: what counts is how the run ended, and that nothing is open."""
    begun = ("run.begun", "", {"run": "r", "name": "n"})
    stop = ("stop", "@run", {"kind": "cancelled", "why": "Ctrl-C"})
    left: dict[str, Any] = {"status": "cancelled", "exit": 4, "unfinished": [{"path": "", "phase": "finally"}]}
    cut = fold(said(begun, stop, ("run.ended", "", left)))
    assert any("not played to its end" in line for line in ending.lines(cut, PLAIN))
    done: list[tuple[str, str, dict[str, Any]]] = [
        begun,
        stop,
        ("run.ended", "", left),
        ("finish.begun", "1", {}),
        ("step.started", "!finally", {"id": "finally", "kind": "phase"}),
        ("step.ended", "!finally", {"id": "finally", "kind": "phase", "status": "succeeded"}),
        ("finish.ended", "1", {"status": "cancelled", "exit": 4}),
        ("run.ended", "", {**left, "unfinished": []}),
    ]
    shown = ending.lines(fold(said(*done)), PLAIN)
    assert shown[1].startswith("■ n cancelled after ")
    assert "  What      cancelled: Ctrl-C" in shown
    done[5] = ("step.ended", "!finally", {"id": "finally", "kind": "phase", "status": "failed"})
    done[6] = ("finish.ended", "1", {"status": "failed", "exit": 1, "error": {"message": "no"}})
    assert ending.lines(fold(said(*done)), PLAIN)[1] == "✗ clean-up of n failed"


def test_objectives_say_why_they_were_not_met() -> None:
    base = {"name": "up", "within": 60.0, "since": START, "at": None}
    for objective, words in (
        ({**base, "verdict": "missed"}, "up: missed, never reached (within 1m)"),
        ({**base, "verdict": "missed", "at": START + 90}, "up: missed after 1m30s (within 1m)"),
        ({**base, "verdict": "n/a"}, "up: n/a: its step was skipped (within 1m)"),
        ({**base, "verdict": "n/a", "since": None}, "up: n/a: what it counts from did not happen (within 1m)"),
    ):
        ended = {"status": "failed", "exit": 1, "objectives": [objective]}
        view = fold(said(("run.begun", "", {"run": "r", "name": "n"}), ("run.ended", "", ended)))
        assert f"  Objective {words}" in ending.lines(view, PLAIN)


def test_a_doubt_that_somebody_has_settled_is_none_any_more() -> None:
    """Until then the end shows what was begun; then it stands, as a change that is known."""
    about = {"call": "c#1", "action": "shell.run", "args": {"command": "touch x"}, "choices": ["done"]}
    asked = {"step": "c", "kind": "in_doubt", "text": "nobody knows", "options": about}
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("run.begun", "", {"run": "r", "name": "n"}),
        ("step.started", "c", {"id": "c", "kind": "action"}),
        ("call.intent", "c#1", {"action": "shell.run", "effect": "opaque", "op": "c"}),
        ("call.result", "c#1", {"op": "c", "status": "in_doubt"}),
        ("asked", "c#1?", asked),
        ("waiting", "x", {"questions": [{"kind": "in_doubt"}]}),
    ]
    lines = ending.lines(fold(said(*made)), PLAIN)
    assert '            shell.run {"command": "touch x"}' in lines
    assert "  Left      c (shell.run) in doubt: perhaps done, perhaps in part" in lines
    made.append(("answered", "c#1?", {"status": "succeeded", "outputs": {"choice": "done", "by": "me"}}))
    made.append(("run.ended", "", {"status": "cancelled", "exit": 4}))
    assert "  Left      c (shell.run) stands" in ending.lines(fold(said(*made)), PLAIN)


def test_an_undo_that_stopped_says_why_once() -> None:
    why = "file f was changed by somebody else"
    view = fold(
        said(
            ("run.begun", "", {"run": "r", "name": "n"}),
            ("step.started", "a", {"id": "a", "kind": "action"}),
            ("call.intent", "a#1", {"action": "file.write", "effect": "change", "op": "a"}),
            ("call.result", "a#1", {"op": "a", "status": "succeeded", "changed": True}),
            ("run.ended", "", {"status": "succeeded", "exit": 0}),
            ("undo.begun", "1", {}),
            ("undone", "a", {"ok": False, "error": why}),
            ("undo.ended", "1", {"status": "failed", "exit": 1, "error": {"message": f"stopped at a: {why}"}}),
        )
    )
    lines = ending.lines(view, PLAIN)
    assert sum(why in line for line in lines) == 1
    assert "  Left      a (file.write) stands" in lines


def test_one_cause_is_one_warning_whatever_steps_it_concerns() -> None:
    steps = [f"s{number}" for number in range(6)]
    lacks = [f"{step}: {GROUND} (perhaps not needed)" for step in steps]
    warnings = [("warning", step, {"message": f"{GROUND} (perhaps not needed)"}) for step in steps]
    shown = lines_of(
        ("run.begun", "", {"run": "r", "name": "n"}),
        ("preflight", "", {"warnings": lacks}),
        *warnings,
        ("warning", "s1", {"message": "another"}),
    )
    grouped = f"s0, s1, s2 and 3 more: {GROUND} (perhaps not needed)"
    assert [line.partition("! ")[2] for line in shown[1:]] == [grouped, "s1: another"]
    view = fold(said(("run.begun", "", {"run": "r", "name": "n"}), *warnings, ("run.ended", "", {"exit": 0})))
    assert f"  Warning   {grouped}" in ending.lines(view, PLAIN)
    assert list(tree(view, PLAIN)) == [], "a step that never began is not shown because it was warned of"


def test_a_failure_that_is_tolerated_is_said_once() -> None:
    failed = {"id": "a", "status": "failed", "tolerated": True, "error": {"message": "no such host"}}
    made = (
        ("run.begun", "", {"run": "r", "name": "n"}),
        ("step.started", "a", {"id": "a", "kind": "action"}),
        ("warning", "a", {"message": "no such host"}),
        ("step.ended", "a", failed),
    )
    assert sum("no such host" in line for line in lines_of(*made)) == 1
    assert sum("no such host" in line for line in tree(fold(said(*made)), PLAIN)) == 1


def test_sentences_beside_their_step() -> None:
    assert without_step("a/b was not done in its time (not yet: 503)", "a/b") == "not done in its time (not yet: 503)"
    assert without_step("a: no", "a") == "no"
    assert without_step("the time is over: 503", "a", "@run") == "the run's time is over: 503"
    assert without_step("the time is over", "deploy/a", "deploy") == "the time of deploy is over"
    assert without_step("the time is over", "a") == "its time is over"
    assert without_step("no pod is ready", "no") == "no pod is ready"
    assert together(["a: x", "b: x", "a: x", "x", "the secret c: y"]) == ["a, b: x", "the secret c: y"]


def test_a_disk_that_takes_no_journal_leaves_no_torso_behind(cli: Commands) -> None:
    """Not even an empty journal can be written: nothing was begun, and nothing looks like a damaged run later."""
    cli.write("accepted.yaml", ACCEPTED)
    command = f"ulimit -f 1; exec {sys.executable} -m runbook.cli run accepted.yaml"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=cli.folder,
        env=cli.variables({"PYTHONDONTWRITEBYTECODE": "1"}),  # a .pyc cut short by the limit would stay
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == Exit.FAILED
    assert "the journal cannot be written" in done.stderr
    assert "run it again: nothing was begun" in done.stderr
    assert "No runs yet" in cli("runs").out


def test_what_cannot_be_deleted_is_a_sentence_and_no_bug(
    cli: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A home on a disk that is read-only (SIMULATED: root may delete anything anywhere else)."""
    cli.write("accepted.yaml", ACCEPTED)
    assert cli("run", "accepted.yaml").code == Exit.FAILED

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setenv("RUNBOOK_HOME", str(cli.home))
    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert main.perform(["prune", "--yes", "--older-than", "0s", "--keep", "0"]) == Exit.REFUSED
    told = capsys.readouterr().err
    assert "cannot be deleted: Read-only file system" in told
    assert "0 of 1 were deleted" in told


def test_who_wants_a_run_that_somebody_runs_is_told_its_commands(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW)
    process = cli.start("run", "slow.yaml")
    try:
        assert process.stdout is not None
        run = process.stdout.readline().split()[1]
        told = cli("resume")
        assert told.code == Exit.REFUSED
        assert f"`runbook logs -f {run}`" in told.err
        assert f"`runbook cancel {run}`" in told.err
        following = cli.start("logs", "-f")
        assert following.stdout is not None
        assert "hello" in following.stdout.readline()
        code, _, err = end(following, signal.SIGINT)
        assert (code, err) == (Exit.SUCCEEDED, f"\n{run} goes on; runbook cancel {run} stops it\n")
        shown = cli("show").out
        assert re.search(r"▸ nap +flow.wait +\d+:\d\d\n", shown), "how long it has been at it"
        assert f"  runbook cancel {run}   (stops it, and cleans up)" in shown
        assert "it cleans up" in cli("cancel").out
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)
