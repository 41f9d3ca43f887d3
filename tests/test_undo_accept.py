"""`runbook undo RUN --accept STEP`: the way on from a change that nothing takes back. As commands, on real files."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner import processes
from runbook.runner.journal import Event, Journal
from runbook.runner.store import Store
from tests.command import Commands
from tests.test_kill import child, prepared, world

PLAYBOOK = """\
runbook: 1
name: stuck
steps:
  - {id: first, action: file.write, with: {to: first.txt, content: new}}
  - {id: known, action: shell.run, with: {command: "echo known > known.txt"}, undo: none}
  - id: part
    steps:
      - {id: note, action: shell.run, with: {command: "echo noted > note.txt"}}
  - id: each
    foreach: {items: [a, b], as: it}
    steps:
      - {id: send, action: shell.run, with: {command: "echo {{ it | shell_quote }} >> sent.txt"}}
  - {id: last, action: file.write, with: {to: last.txt, content: new}}
  - {id: broken, action: shell.run, with: {command: "echo half > half.txt; exit 3"}}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    made = Commands(tmp_path / "here")
    made.folder.mkdir()
    made.write("p.yaml", PLAYBOOK)
    made.write("first.txt", "old")
    return made


def run_id(cli: Commands) -> str:
    return Store(cli.home).find("last").id


def events(cli: Commands) -> list[Event]:
    journal = Journal.open(Store(cli.home).find("last").journal, readonly=True)
    try:
        return list(journal.events())
    finally:
        journal.close()


def texts(cli: Commands) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in sorted(cli.folder.glob("*.txt"))}


STOOD = {"half.txt": "half", "known.txt": "known", "note.txt": "noted", "sent.txt": "a\nb"}


def test_it_names_the_step_and_the_command_that_goes_on(cli: Commands) -> None:
    """Without a terminal, step after step, each accepted by the command that the refusal named."""
    assert cli("run", "p.yaml").code == Exit.FAILED
    run = run_id(cli)
    accepted: list[str] = []
    for step, quoted in (
        ("broken", "broken"),
        ("each[1]/send", "'each[1]/send'"),
        ("each[0]/send", "'each[0]/send'"),
        ("part/note", "part/note"),
    ):
        stuck = cli("undo", run, "--yes", *accepted)
        assert stuck.code == Exit.FAILED, stuck.out + stuck.err
        assert f"stopped at {step}: nothing takes shell.run back" in stuck.out
        assert f"  Next      runbook undo {run} --accept {quoted} " in stuck.out
        assert texts(cli)["first.txt"] == "new"
        accepted = ["--accept", step]
    done = cli("undo", run, *accepted, "--why", "the mail is taken back by hand")
    assert done.code == Exit.SUCCEEDED, done.out + done.err
    assert texts(cli) == {**STOOD, "first.txt": "old"}
    assert "part/note is left as it is, accepted by" in done.out

    by = processes.user()
    begun = [event.data for event in events(cli) if event.kind == "undo.begun"]
    assert [data.get("accepted", []) for data in begun] == [
        [],
        ["broken"],
        ["each[1]/send"],
        ["each[0]/send"],
        ["part/note"],
    ]
    assert (begun[-1]["initiator"], begun[-1]["why"]) == (by, "the mail is taken back by hand")
    shown = cli("show")
    assert "part/note (shell.run) stands, accepted by " in shown.out
    assert ": the mail is taken back by hand" in shown.out
    assert "first (file.write) stands" not in shown.out
    facts = json.loads(cli("report", "--format", "json").out)
    told = {one["step"]: (one["by"], bool(one["at"]), one["why"]) for one in facts["accepted"]}
    assert told == {
        "broken": (by, True, ""),
        "each[1]/send": (by, True, ""),
        "each[0]/send": (by, True, ""),
        "part/note": (by, True, "the mail is taken back by hand"),
    }
    assert "| part/note | shell.run | no preview | left as it is, accepted by " in cli("report").out
    assert "undone but for 4 accepted" in cli("runs").out
    assert cli("verify").code == Exit.SUCCEEDED


def test_an_acceptance_is_kept_once_and_for_good(cli: Commands) -> None:
    assert cli("run", "p.yaml").code == Exit.FAILED
    words = [word for step in ("broken", "each[0]/send", "each[1]/send", "note") for word in ("--accept", step)]
    assert cli("undo", "--yes", *words, "--why", "seen to").code == Exit.SUCCEEDED
    after = texts(cli)
    assert after == {**STOOD, "first.txt": "old"}
    for again in (("undo",), ("undo", *words, "--why", "another reason")):
        done = cli(*again)
        assert done.code == Exit.SUCCEEDED, done.out + done.err
        assert texts(cli) == after
    assert [e.data["accepted"] for e in events(cli) if e.kind == "undo.begun" and "accepted" in e.data] == [
        ["broken", "each[0]/send", "each[1]/send", "part/note"]
    ]
    assert {one["why"] for one in json.loads(cli("report", "--format", "json").out)["accepted"]} == {"seen to"}


@pytest.mark.parametrize(
    ("step", "why", "hint"),
    [
        ("brokn", "no change of this run is called so", "did you mean `broken`?"),
        ("part", "no change of this run is called so", "did you mean `part/note`?"),
        ("first", "the undo takes it back, nothing has to be accepted", "the undo stops at: broken,"),
        ("known", "the undo leaves it as it is anyway", "the undo stops at: broken,"),
        ("send", "that may be each[1]/send, each[0]/send", "give one of these"),
    ],
)
def test_only_what_an_undo_stops_at_can_be_accepted(cli: Commands, step: str, why: str, hint: str) -> None:
    assert cli("run", "p.yaml").code == Exit.FAILED
    before = len(events(cli)), texts(cli)
    for more in (("--yes",), ("--dry-run",)):
        refused = cli("undo", "--accept", "broken", "--accept", step, *more)
        assert refused.code == Exit.INVALID, refused.out + refused.err
        assert f"--accept {step}: {why}" in refused.err
        assert hint in refused.err
        assert (len(events(cli)), texts(cli)) == before, "something was done"


def test_the_plan_of_an_undo_says_where_it_stops_and_changes_nothing(cli: Commands) -> None:
    assert cli("run", "p.yaml").code == Exit.FAILED
    run, before = run_id(cli), (len(events(cli)), texts(cli))
    planned = cli("undo", "--dry-run")
    assert planned.code == Exit.SUCCEEDED, planned.err
    assert planned.out.splitlines() == [
        f"stuck  run {run}",
        "  stop at broken: nothing takes shell.run back",
        f"    see to it by hand, then: runbook undo {run} --accept broken",
        "  not reached last  file.write",
        "  not reached each[1]/send  shell.run",
        "  not reached each[0]/send  shell.run",
        "  not reached part/note  shell.run",
        "  not reached first  file.write",
    ]
    planned = cli("undo", "--dry-run", "--accept", "broken")
    assert planned.out.splitlines()[1:5] == [
        "  leave as it is broken  shell.run",
        "  take back last  file.write",
        "  stop at each[1]/send: nothing takes shell.run back",
        f"    see to it by hand, then: runbook undo {run} --accept 'each[1]/send'",
    ]
    assert (len(events(cli)), texts(cli)) == before


CHANGED = """\
runbook: 1
name: changed
steps:
  - {id: one, action: file.write, with: {to: one.txt, content: new}}
  - {id: two, action: file.write, with: {to: two.txt, content: new}}
  - id: back
    undo: {steps: [{id: unback, action: shell.run, with: {command: "test -f allowed && rm inner.txt"}}]}
    steps:
      - {id: inner, action: shell.run, with: {command: "echo inner > inner.txt"}}
"""


def test_what_somebody_else_changed_or_what_fails_to_go_back_can_be_accepted_after_it_was_tried(cli: Commands) -> None:
    cli.write("p.yaml", CHANGED)
    assert cli("run", "p.yaml").code == Exit.SUCCEEDED
    run = run_id(cli)
    cli.write("two.txt", "somebody else's")
    assert cli("undo", "--accept", "two").code == Exit.INVALID, "nobody knows yet that it is refused"
    failed = cli("undo")
    assert failed.code == Exit.FAILED
    assert f"runbook undo {run}   (when the reason is gone)" in failed.out
    assert f"runbook undo {run} --accept back   (" in failed.out
    assert "back/inner (shell.run) stands" in failed.out
    again = cli("undo", "--dry-run").out.splitlines()
    assert again[1].strip() == "take back back"
    assert again[2].strip().startswith("could not be taken back before: exit status 1")
    refused = cli("undo", "--accept", "back")
    assert refused.code == Exit.FAILED
    assert "two.txt was changed by somebody else" in refused.out
    assert f"runbook undo {run} --accept two   (" in refused.out
    done = cli("undo", "--accept", "two", "--why", "theirs stays")
    assert done.code == Exit.SUCCEEDED, done.out + done.err
    assert texts(cli) == {"first.txt": "old", "inner.txt": "inner", "two.txt": "somebody else's"}
    assert "back/inner (shell.run) stands, accepted by " in done.out
    assert cli("undo", "--accept", "one").err.startswith("runbook: --accept one: it was taken back already")


def test_undo_steps_of_a_block_stand_for_what_is_inside_also_on_the_screen(cli: Commands) -> None:
    cli.write("p.yaml", CHANGED)
    assert cli("run", "p.yaml").code == Exit.SUCCEEDED
    cli.write("allowed", "")
    done = cli("undo")
    assert done.code == Exit.SUCCEEDED, done.out + done.err
    assert texts(cli) == {"first.txt": "old"}
    assert "Left      nothing: no change of this run stands" in done.out


def test_a_run_that_was_refused_before_it_began_is_not_run_by_its_undo(cli: Commands) -> None:
    """Once the tool is there, preflight would let it begin: an undo begins nothing."""
    cli.write(
        "p.yaml",
        "runbook: 1\nname: lacking\nsteps:\n"
        "  - {id: act, action: shell.run, with: {command: [mytool, x]}, undo: none}\n"
        "  - {id: write, action: file.write, with: {to: out.txt, content: new}}\n",
    )
    refused = cli("run", "p.yaml")
    assert refused.code == Exit.REFUSED, refused.out
    tools = cli.folder / "tools"
    tools.mkdir()
    (tools / "mytool").write_text("#!/bin/sh\ntouch ran.txt\n")
    (tools / "mytool").chmod(0o755)
    path = f"{tools}:{cli.variables()['PATH']}"
    for words in (("undo", run_id(cli)), ("undo", run_id(cli), "--dry-run")):
        done = cli(*words, environ={"PATH": path})
        assert done.code == Exit.REFUSED, done.out + done.err
        assert "was refused before it began: there is nothing to take back" in done.err
    assert texts(cli) == {"first.txt": "old"}


TOYS = """
runbook: 1
name: toys
steps:
  - {id: first, action: toy.set, with: {name: a, value: one}}
  - {id: note, action: toy.note, with: {name: n}}
  - {id: second, action: toy.set, with: {name: b, value: two}}
  - {id: third, action: toy.set, with: {name: a, value: three}}
"""


def test_it_is_durable_killed_at_every_journal_write_and_resumed(tmp_path: Path) -> None:
    """kill -9 of real processes; by turns `resume`, and the same `undo --accept` once more."""
    kills = 0
    for at in range(1, 20):
        folder = prepared(tmp_path / "lab", TOYS)
        (folder / "world" / "o_a").write_text("old")
        assert child(folder, "start")[0] == 0
        code, _ = child(folder, "undo", at, ACCEPT="note")
        if code != -signal.SIGKILL:
            assert (code, world(folder)) == (0, {"o_a": "old"})
            break
        kills += 1
        words = ("resume",) if at % 2 else ("undo",)
        code, found = child(folder, *words, ACCEPT="note")
        if code == Exit.REFUSED:  # killed before it began, or after its end was on disk
            assert "has ended" in found["message"]
            code, found = child(folder, "undo", ACCEPT="note")
        assert (code, world(folder)) == (0, {"o_a": "old"}), (at, found)
    assert kills > 4


def test_an_undo_that_was_killed_before_it_got_stuck_is_ended_first_then_goes_on_without_it(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "lab", TOYS)
    (folder / "world" / "o_a").write_text("old")
    assert child(folder, "start")[0] == 0
    assert child(folder, "undo", 2)[0] == -signal.SIGKILL
    assert child(folder, "undo", ACCEPT="nothing")[1]["exit"] == Exit.INVALID
    code, found = child(folder, "undo", ACCEPT="note")
    assert (code, world(folder)) == (0, {"o_a": "old"}), found
    journal = Journal.open(Store(folder / "home").find("last").journal, readonly=True)
    ended = [event.data["exit"] for event in journal.events() if event.kind == "undo.ended"]
    journal.close()
    assert ended == [Exit.FAILED, Exit.SUCCEEDED]
