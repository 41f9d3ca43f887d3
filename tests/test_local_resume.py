"""What a resumed run finds: intents without results, waits, questions. The crash is an exception at a commit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import Context, Observation, Settled
from runbook.interpreter.effects import Box, Call, Question
from runbook.interpreter.errors import Exit, InternalError, InvalidError, RefusedError
from runbook.runner import people, processes, session
from runbook.runner.journal import Event, Journal
from runbook.runner.leases import TTL, LeaseLostError
from runbook.runner.people import Answer
from runbook.runner.questions import own_box
from runbook.runner.surroundings import Real
from tests.runner_toys import Args, Lab, Set, steps


class Died(BaseException):
    """The process is gone."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.at(tmp_path)


def killed(lab: Lab, text: str, when: Callable[[Event], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the turn that holds such an event is on disk; then nothing more happens."""
    write = Journal._write

    def dying(self: Journal) -> None:
        dead = any(when(event) for event in self._fresh)
        write(self)
        if dead:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", dying)
        with pytest.raises(Died):
            lab.run(text)


def intent(key: str) -> Callable[[Event], bool]:
    return lambda event: event.kind == "call.intent" and event.key == key


ONE = """
runbook: 1
name: p
steps:
  - {id: a, action: toy.set, with: {name: x, value: new}}
  - {id: b, action: toy.note, with: {name: after}}
on_failure: {undo: true}
""".replace("  - {id: b, action: toy.note, with: {name: after}}", "  - {id: b, action: toy.get, with: {}}")


@pytest.mark.parametrize(
    ("found", "applied", "exit_", "left"),
    [
        ("new", [], Exit.SUCCEEDED, "new"),  # it happened, and its result was lost
        ("old", ["start x=new", "done x=new"], Exit.SUCCEEDED, "new"),  # it did not
        ("theirs", [], Exit.IN_DOUBT, "theirs"),  # somebody else was there: a person decides
    ],
)
def test_a_change_without_a_result_is_settled_by_observation(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, found: str, applied: list[str], exit_: Exit, left: str
) -> None:
    lab.put("x", "old")
    killed(lab, ONE, intent("a#1"), monkeypatch)
    lab.put("x", found)
    ended = lab.resume()
    assert ended.exit == exit_
    assert [line for line in lab.log() if "x=" in line] == applied
    assert lab.value("x") == left
    if exit_ == Exit.IN_DOUBT:
        assert ended.questions[0].options["choices"] == ["repeat", "done", "fail"]
        session.answer("last", "a", Answer("done", "ann", time.time()), world=lab.around)
        assert lab.resume().exit == Exit.SUCCEEDED


class Halves(Set):
    """Two objects; a crash may leave one of them done."""

    name = "toy.halves"

    def observe(self, args: Args, ctx: Context) -> Observation:
        world = Path(ctx.environ["WORLD"])
        return {
            f"toy:{name}": (world / f"o_{name}").read_text() if (world / f"o_{name}").exists() else None
            for name in ("l", "r")
        }

    def expect(self, args: Args, before: Observation, ctx: Context) -> Observation:
        return {"toy:l": args.value, "toy:r": args.value}

    def apply(self, args: Args, before: Observation, ctx: Context) -> None:
        for name in ("l", "r"):
            (Path(ctx.environ["WORLD"]) / f"o_{name}").write_text(str(args.value))

    def inverse(self, args: Args, before: Observation, op: str) -> None:
        return None

    def outputs(self, args: Args, before: Observation, after: Observation) -> dict[str, Any]:
        return {"previous": before, "value": after}


def test_a_half_done_change_is_applied_again_and_remembers_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab.at(tmp_path, Halves)
    killed(
        lab, "runbook: 1\nname: p\nsteps: [{id: a, action: toy.halves, with: {value: new}}]", intent("a#1"), monkeypatch
    )
    lab.put("l", "new")
    ended = lab.resume()
    assert ended.exit == Exit.SUCCEEDED
    assert (lab.value("l"), lab.value("r")) == ("new", "new")
    result = next(event for event in lab.events() if event.kind == "call.result")
    assert result.data["outputs"]["previous"] == {"toy:l": None, "toy:r": None}


class Blind(Set):
    """Looking takes for ever."""

    name = "toy.blind"
    slow = False

    def settle(self, args: Args, before: Observation, after: Observation, now: Observation, ctx: Context) -> Settled:
        raise AssertionError("unreachable: observe hangs")

    def observe(self, args: Args, ctx: Context) -> Observation:
        if type(self).slow:
            time.sleep(3600)
        return super().observe(args, ctx)


@pytest.mark.timed
def test_looking_after_a_crash_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab.at(tmp_path, Blind)
    text = "runbook: 1\nname: p\nsteps: [{id: a, action: toy.blind, timeout: 500ms, with: {name: x, value: new}}]"
    killed(lab, text, intent("a#1"), monkeypatch)
    monkeypatch.setattr(Blind, "slow", True)
    monkeypatch.setattr("runbook.runner.calls.SETTLE", 0.5)
    began = time.monotonic()
    ended = lab.resume()
    assert time.monotonic() - began < 4
    assert ended.exit == Exit.IN_DOUBT


NOTE = (
    "runbook: 1\nname: p\nsteps: [{id: a, action: toy.note, with: {name: n}IDEM}, {id: b, action: toy.get, with: {}}]"
)


@pytest.mark.parametrize(
    ("idempotent", "policy", "exit_", "times"),
    [(True, "ask", Exit.SUCCEEDED, 1), (False, "repeat", Exit.SUCCEEDED, 1), (False, "done", Exit.SUCCEEDED, 0),
     (False, "fail", Exit.FAILED, 0), (False, "ask", Exit.IN_DOUBT, 0)],
)  # fmt: skip
def test_an_opaque_call_is_repeated_if_it_may_be_else_somebody_decides(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, idempotent: bool, policy: str, exit_: Exit, times: int
) -> None:
    killed(lab, NOTE.replace("IDEM", ", idempotent: true" if idempotent else ""), intent("a#1"), monkeypatch)
    assert lab.log() == []
    ended = lab.resume(in_doubt=policy)
    assert ended.exit == exit_
    assert lab.log().count("done n") == times


def test_a_cancel_before_the_resume_repeats_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lab, NOTE.replace("IDEM", ", idempotent: true"), intent("a#1"), monkeypatch)
    session.cancel("last", world=lab.around)
    assert lab.resume().exit == Exit.CANCELLED
    assert lab.log() == []


def test_notifications_in_doubt_are_told_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(
        lab, "runbook: 1\nname: p\nsteps: [{id: t, action: toy.tell, with: {name: slack}}]", intent("t#1"), monkeypatch
    )
    assert lab.resume().exit == Exit.SUCCEEDED
    assert lab.log() == ["tell slack"]


@pytest.mark.timed
def test_a_wait_goes_on_where_it_was_and_running_time_stands_still_while_nobody_runs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
runbook: 1
name: p
timeout: 20s
steps: [{id: w, action: flow.wait, with: {for: 1500ms}}, {id: b, action: toy.get, with: {}}]
"""
    killed(lab, text, lambda event: event.kind == "sleep.began", monkeypatch)
    time.sleep(0.5)
    began = time.monotonic()
    assert lab.resume().exit == Exit.SUCCEEDED
    assert 1.0 < time.monotonic() - began < 3
    slept = next(event for event in lab.events() if event.kind == "slept")
    assert 1.4 < slept.at < 2.5
    resumed = next(event for event in lab.events() if event.kind == "resumed")
    assert resumed.at < 0.4


@pytest.mark.timed
def test_a_beat_gives_back_no_more_than_its_period(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.runner.local.BEAT", 0.2)
    text = "runbook: 1\nname: p\nsteps: [{id: w, action: toy.polite, timeout: 1s, with: {}}]"
    beats = iter(range(100))
    killed(lab, text, lambda event: event.kind == "beat" and next(beats) == 2, monkeypatch)
    assert lab.events()[-1].at >= 0.55
    ended = lab.resume(in_doubt="fail")
    assert ended.exit == Exit.FAILED


def test_a_run_that_has_ended_is_neither_resumed_nor_cancelled(lab: Lab) -> None:
    lab.run(ONE)
    with pytest.raises(RefusedError, match="has ended"):
        lab.resume()
    with pytest.raises(RefusedError, match="has ended"):
        session.cancel("last", world=lab.around)


def test_a_changed_journal_is_not_resumed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    killed(lab, ONE, intent("a#1"), monkeypatch)
    db = sqlite3.connect(lab.store.find("last").journal, isolation_level=None)
    db.execute("update events set data = replace(data, 'new', 'bad') where kind = 'call.intent'")
    db.close()
    with pytest.raises(InternalError, match="was changed"):
        lab.resume()
    assert lab.value("x") is None


def test_changed_playbook_files_are_not_resumed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    killed(lab, ONE, intent("a#1"), monkeypatch)
    db = sqlite3.connect(lab.store.find("last").journal, isolation_level=None)
    db.execute("update files set content = cast(replace(content, 'new', 'bad') as blob)")
    db.close()
    with pytest.raises(InternalError, match="stored files"):
        lab.resume()


def test_the_playbook_is_the_one_that_the_run_began_with(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lab, ONE, intent("a#1"), monkeypatch)
    (lab.folder / "p.yaml").write_text("not even a playbook")
    monkeypatch.chdir(lab.folder)
    assert lab.resume().exit == Exit.SUCCEEDED


def test_a_simulated_run_is_not_resumed_on_the_real_world(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Simulated(Real):
        simulated = True

    killed(lab, ONE, intent("a#1"), monkeypatch)
    world = session.World(store=lab.store, surroundings=Simulated(lab.environ), registry=lab.registry)
    with pytest.raises(RefusedError, match="simulated"):
        session.resume("last", world=world)


def test_what_an_abandoned_thread_did_is_observed_before_it_is_undone(tmp_path: Path) -> None:
    class Late(Set):
        """Applies after everybody has given up, and never comes back."""

        name = "toy.late"

        def apply(self, args: Args, before: Observation, ctx: Context) -> None:
            super().apply(args, before, ctx)
            if args.seconds:
                time.sleep(3600)

    lab = Lab.at(tmp_path, Late)
    lab.put("x", "old")
    ended = lab.run("""
runbook: 1
name: p
on_failure: {undo: true}
steps: [{id: a, action: toy.late, timeout: 300ms, with: {name: x, value: new, seconds: 0.1}}]
""")
    assert ended.exit == Exit.FAILED
    assert lab.value("x") == "old"
    result = next(event for event in lab.events() if event.key == "a#1" and event.kind == "call.result")
    assert (result.data["abandoned"], result.data["changed"]) == (True, True)


def test_objectives_are_met_missed_or_not_applicable(lab: Lab) -> None:
    ended = lab.run("""
runbook: 1
name: p
inputs: {since: {type: timestamp, default: "2020-01-01T00:00:00Z"}}
objectives:
  told: 1m
  fixed: {within: 1m, since: "{{ inputs.since }}"}
  checked: {within: 1m, since: fixed}
  skipped: 1m
  never: {within: 1m, since: skipped}
steps:
  - {id: t, action: toy.get, with: {}, milestone: told}
  - {id: f, action: toy.get, with: {}, milestone: fixed}
  - {id: c, action: toy.get, with: {}, milestone: checked}
  - {id: s, action: toy.get, with: {}, milestone: skipped, when: "false"}
  - {id: n, action: toy.get, with: {}, milestone: never}
""")
    found = {entry["name"]: entry for entry in lab.events(ended)[-1].data["objectives"]}
    verdicts = {name: entry["verdict"] for name, entry in found.items()}
    assert verdicts == {"told": "met", "fixed": "missed", "checked": "met", "skipped": "n/a", "never": "n/a"}
    assert found["checked"]["since"] == found["fixed"]["at"]


# -- people


CHECKLIST = """
runbook: 1
name: p
steps:
  - id: list
    action: manual.checklist
    with: {message: m, sections: {Web: [loads, logs in], Money: pays}, allow_unchecked: ALLOWED}
  - {id: n, action: toy.note, with: {name: n}}
"""


@pytest.mark.parametrize(("allowed", "exit_"), [(0, Exit.FAILED), (1, Exit.SUCCEEDED)])
def test_a_checklist_is_ticked_off_item_by_item(lab: Lab, allowed: int, exit_: Exit) -> None:
    lab.run(CHECKLIST.replace("ALLOWED", str(allowed)))
    items = (
        {"text": "loads", "checked": True},
        {"text": "logs in", "checked": True},
        {"text": "pays", "note": "no card"},
    )
    session.answer("last", "list", Answer("", "ann", time.time(), items=items), world=lab.around)
    assert lab.resume().exit == exit_
    answered = next(event for event in lab.events() if event.kind == "answered")
    assert answered.data["outputs"]["unchecked"] == 1
    assert answered.data["outputs"]["answers"][2]["note"] == "no card"


def test_an_answer_that_fits_no_question_or_no_choice_is_refused(lab: Lab) -> None:
    lab.run("runbook: 1\nname: p\nsteps: [{id: ask, action: manual.choose, with: {message: m, choices: {a: A, b: B}}}]")
    with pytest.raises(InvalidError, match="open question"):
        session.answer("last", "other", Answer("a", "ann", 1.0), world=lab.around)
    with pytest.raises(RefusedError, match="none of the choices"):
        session.answer("last", "ask", Answer("c", "ann", 1.0), world=lab.around)
    assert [question.text for question in session.questions("last", world=lab.around)] == ["m"]


@pytest.mark.timed
def test_an_answer_from_another_process_reaches_a_run_that_asks_on_its_terminal(lab: Lab) -> None:
    def nobody_types(question: Question) -> Answer | None:
        time.sleep(3600)
        return None

    def answer(event: Event) -> None:
        if event.kind == "asked":
            told = Answer("approve", "bob", time.time())
            threading.Timer(0.1, lambda: session.answer("last", "ask", told, world=lab.around)).start()

    began = time.monotonic()
    ended = lab.run(
        "runbook: 1\nname: p\nsteps: [{id: ask, action: manual.approve, with: {message: m}}]",
        ask=nobody_types,
        listeners=[answer],
    )
    assert ended.exit == Exit.SUCCEEDED
    assert time.monotonic() - began < 5


def test_a_wrong_answer_on_the_terminal_is_asked_again_and_a_broken_terminal_waits(lab: Lab) -> None:
    answers = iter(["nonsense", "approve"])
    text = "runbook: 1\nname: p\nsteps: [{id: ask, action: manual.approve, with: {message: m}}]"
    assert lab.run(text, ask=lambda question: Answer(next(answers), "ann", 1.0)).exit == Exit.SUCCEEDED

    def broken(question: Question) -> Answer:
        raise OSError("no terminal")

    assert lab.run(text, ask=broken).exit == Exit.WAITING


def test_two_questions_at_once_and_work_beside_them(lab: Lab) -> None:
    text = """
runbook: 1
name: p
steps:
  - id: both
    parallel:
      - {id: a, action: manual.approve, with: {message: m}}
      - {id: b, action: manual.choose, with: {message: m, choices: {x: X}}}
      - {id: n, action: toy.note, with: {name: n, seconds: 0.3}}
"""
    ended = lab.run(text)
    assert ended.exit == Exit.WAITING
    assert {question.step for question in ended.questions} == {"both/a", "both/b"}
    assert lab.log() == ["start n", "done n"]  # what could run has run
    session.answer("last", "a", Answer("yes", "ann", time.time()), world=lab.around)
    session.answer("last", "both/b", Answer("x", "ann", time.time()), world=lab.around)
    assert lab.resume().exit == Exit.SUCCEEDED
    assert lab.log() == ["start n", "done n"]


def test_a_failure_is_asked_about_when_a_person_is_there(lab: Lab) -> None:
    asked: list[Question] = []

    def ask(question: Question) -> Answer:
        asked.append(question)
        (lab.world / "go").touch()
        return Answer("retry", "ann", time.time())

    ended = lab.run(
        "runbook: 1\nname: p\nsteps: [{id: a, action: toy.set, with: {name: x, value: v, times: 1}}]",
        ask=ask,
        options=session.Options(interactive=True),
    )
    assert ended.exit == Exit.SUCCEEDED
    assert asked[0].options["choices"] == ["retry", "continue", "undo", "abort"]


def test_a_questions_own_time_is_that_of_its_step() -> None:
    run = Box("@run", None, 100.0)
    block = Box("block", run, 50.0)
    step = Box("block/ask", block, 10.0)
    question = Question("block/ask#1", "block/ask", "approve", "")
    assert own_box(question, step) is step
    assert own_box(question, Box("block/ask", block)) is None
    assert people.choices(question) == ("approve", "decline")


# -- secrets


def test_a_missing_secret_fails_the_run_before_anything_is_done(lab: Lab) -> None:
    ended = lab.run("""
runbook: 1
name: p
secrets: {token: {env: NOT_THERE}}
steps: [{id: a, action: toy.note, with: {name: n, text: "{{ secrets.token }}"}}]
""")
    assert ended.exit in (Exit.FAILED, Exit.REFUSED)
    assert lab.log() == []
    assert "NOT_THERE" in repr(ended.outcome)


def test_a_resumed_run_reads_its_secrets_again(tmp_path: Path) -> None:
    lab = Lab.at(tmp_path, TOKEN="hunter2-hunter2")
    lab.run("""
runbook: 1
name: p
secrets: {token: {env: TOKEN}}
steps:
  - {id: ask, action: manual.approve, with: {message: m}}
  - {id: a, action: toy.note, with: {name: n, text: "{{ secrets.token }}"}}
""")
    session.answer("last", "ask", Answer("yes", "ann", time.time()), world=lab.around)
    ended = lab.resume()
    assert ended.exit == Exit.SUCCEEDED
    result = next(event for event in lab.events() if event.kind == "call.result")
    assert result.data["outputs"]["text"] == "‹secret:token›"


@pytest.mark.timed
def test_a_secret_that_cannot_be_read_in_time_is_a_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.runner.secret_waits.PATIENCE", 0.3)
    monkeypatch.setattr("runbook.runner.secrets.Secrets.resolve", lambda self, ref: time.sleep(3600))
    began = time.monotonic()
    ended = lab.run("""
runbook: 1
name: p
secrets: {token: {env: TOKEN}}
steps: [{id: a, action: toy.note, with: {name: n, text: "{{ secrets.token }}"}}]
""")
    assert ended.exit == Exit.FAILED
    assert time.monotonic() - began < 3


# -- processes


@pytest.mark.timed
def test_a_process_is_known_by_its_start_and_ended_with_its_group() -> None:
    import subprocess

    child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60 & sleep 60"], start_new_session=True)
    time.sleep(0.2)
    start = processes.started(child.pid)
    assert processes.alive(child.pid, start)
    assert not processes.alive(child.pid, "0")
    assert processes.end(child.pid, "0") is False
    assert processes.end_noted({"pid": child.pid, "started": start, "boot": "another boot"}, "op") is False
    assert processes.end_noted({"pid": child.pid}, "op") is False
    assert child.poll() is None
    began = time.monotonic()
    assert processes.end_noted({"pid": child.pid, "started": start, "boot": processes.boot()}, "op") is True
    assert time.monotonic() - began < 2
    child.wait(5)
    assert processes.started(child.pid) == ""
    assert processes.started(os.getpid()) != ""


def test_a_call_that_flew_when_the_run_broke_is_cut(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails while a process runs: the process does not outlive the run."""
    text = """
runbook: 1
name: p
steps:
  - id: both
    parallel:
      - {id: a, action: shell.run, with: {command: "sleep 60"}}
      - {id: b, action: toy.set, with: {name: x, value: v, seconds: 0.5}}
"""
    monkeypatch.setattr(Journal, "_write", _dying_at_result(Journal._write))
    with pytest.raises(Died):
        lab.run(text)
    monkeypatch.undo()
    pid = next(event.data["value"] for event in lab.events() if event.kind == "call.note")
    until = time.monotonic() + 2
    while processes.alive(pid["pid"], pid["started"]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not processes.alive(pid["pid"], pid["started"])


def _dying_at_result(write: Callable[[Journal], None]) -> Callable[[Journal], None]:
    def dying(self: Journal) -> None:
        write(self)
        if any(event.kind == "call.result" for event in self._fresh):
            raise Died

    return dying


def test_a_run_that_lost_its_lease_stops_and_touches_nothing_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped for longer than the lease lives, and another process resumed the run: that one goes on."""
    others: list[Journal] = []

    def steal(event: Event) -> None:
        if event.kind == "call.intent" and event.key == "a#1":
            real = processes.clock
            with monkeypatch.context() as patch:
                patch.setattr(processes, "clock", lambda: real() + TTL + 1)
                others.append(Journal.open(lab.store.find("last").journal))
                others[0].take()

    with pytest.raises(LeaseLostError):
        lab.run(
            """
runbook: 1
name: p
steps:
  - {id: a, action: toy.note, with: {name: a, seconds: 0.1}}
  - {id: b, action: toy.note, with: {name: b}}
finally: {steps: [{id: z, action: toy.note, with: {name: z}}]}
""",
            listeners=[steal],
        )
    assert lab.log() == ["start a", "done a"]
    assert lab.events()[-1].kind == "call.intent"
    assert others[0].holder() is not None
    others[0].close()
    assert lab.resume(in_doubt="done").exit == Exit.SUCCEEDED
    assert lab.log() == ["start a", "done a", "start b", "done b", "start z", "done z"]


def test_a_very_long_error_is_kept_by_its_head_and_tail(lab: Lab) -> None:
    ended = lab.run('runbook: 1\nname: p\nsteps: [{id: a, action: toy.note, with: {fail: "%s end"}}]' % ("x" * 20000))
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert len(ended.outcome.error.message) < 9000
    assert ended.outcome.error.message.rstrip().endswith("end")


def test_steps_are_known_by_their_paths(lab: Lab) -> None:
    ended = lab.run("""
runbook: 1
name: p
steps:
  - id: each
    foreach: {items: [1, 1], as: n}
    steps: [{id: a, action: toy.note, with: {name: "n{{ n }}"}}]
""")
    assert set(steps(lab.events(ended))) == {"each", "each[0]/a", "each[1]/a"}
    assert lab.log().count("done n1") == 2  # equal items do not share a result
    assert Call("k", "o", "s", "a", {}, "read").key == "k"
