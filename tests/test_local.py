"""The local runner: playbooks on real threads and a real journal, to their end."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.effects import Question
from runbook.interpreter.errors import Exit, NonDeterminismError, RefusedError
from runbook.runner import session
from runbook.runner.clock import Clock
from runbook.runner.journal import Event, Journal
from runbook.runner.local import jittered
from runbook.runner.people import Answer
from tests.runner_toys import Lab, steps


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.at(tmp_path)


def book(steps_: str, head: str = "") -> str:
    return f"runbook: 1\nname: p\n{head}\nsteps:\n{steps_}\n"


ASK = "  - {id: ask, action: manual.approve, with: {message: go on}}\n"


def test_data_flows_and_every_event_is_shown_after_it_is_on_disk(lab: Lab) -> None:
    seen: list[Event] = []
    ended = lab.run(
        book("""
  - {id: a, action: toy.get, with: {value: [1, 2]}}
  - {id: b, action: toy.set, with: {name: x, value: "{{ steps.a.outputs.value[1] }}"}}
  - {id: c, action: toy.note, with: {name: "{{ steps.b.outputs.value }}"}, when: "steps.b.outputs.previous is none"}
"""),
        listeners=[seen.append],
    )
    assert (ended.status, ended.exit) == ("succeeded", Exit.SUCCEEDED)
    assert lab.log() == ["get ", "start x=2", "done x=2", "start 2", "done 2"]
    assert [event for event in seen if event.seq] == lab.events(ended)
    assert [event.seq for event in seen if event.seq] == list(range(1, len(lab.events(ended)) + 1))
    assert steps(lab.events(ended)) == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}


def test_an_intent_is_on_disk_before_the_action_starts_and_its_result_before_the_next(lab: Lab) -> None:
    ended = lab.run(
        book("""
  - {id: a, action: toy.set, with: {name: x, value: "1"}}
  - {id: b, action: toy.note, with: {name: n}}
""")
    )
    kinds = [(event.kind, event.key) for event in lab.events(ended) if event.kind.startswith("call.")]
    assert kinds == [("call.intent", "a#1"), ("call.result", "a#1"), ("call.intent", "b#1"), ("call.result", "b#1")]
    intent = next(event for event in lab.events(ended) if event.kind == "call.intent")
    assert intent.data["before"] == {"toy:x": None}
    assert intent.data["after"] == {"toy:x": "1"}
    assert intent.data["inverse"]["args"] == {"name": "x", "value": None}


def test_a_change_that_is_already_so_is_not_applied_and_a_restart_always_is(lab: Lab) -> None:
    lab.put("x", "1")
    ended = lab.run(
        book("""
  - {id: a, action: toy.set, with: {name: x, value: "1"}}
  - {id: r, action: toy.restart, with: {name: web}}
""")
    )
    results = {event.key: event.data for event in lab.events(ended) if event.kind == "call.result"}
    assert "changed" not in results["a#1"]
    assert results["r#1"]["changed"] is True
    assert lab.log() == ["restart web"]


def test_failure_unwinds_to_what_was(lab: Lab) -> None:
    lab.put("x", "old")
    ended = lab.run(
        book("""
  - id: b
    on_failure: undo
    steps:
      - {id: a, action: toy.set, with: {name: x, value: new}}
      - {id: c, action: toy.set, with: {name: y, value: made}}
      - {id: d, action: toy.get, with: {}, fail_when: "true"}
""")
    )
    assert ended.exit == Exit.FAILED
    assert (lab.value("x"), lab.value("y")) == ("old", None)
    assert lab.log()[-4:] == ["start y=None", "done y=None", "start x=old", "done x=old"]


def test_before_and_inverse_are_those_of_the_first_attempt(lab: Lab) -> None:
    """The first attempt applied and its answer was lost: the second sees `after` and must not take it for `before`."""
    lab.put("x", "old")
    ended = lab.run(
        book("""
  - id: b
    on_failure: undo
    steps:
      - {id: a, action: toy.set, with: {name: x, value: new, times: 1}, retry: {delay: 10ms}}
      - {id: d, action: toy.get, with: {}, fail_when: "true"}
""")
    )
    second = next(event for event in lab.events(ended) if event.kind == "call.result" and event.key.endswith("a#2"))
    assert second.data["changed"] is True
    assert second.data["outputs"] == {"previous": "old", "value": "new"}
    assert lab.value("x") == "old"


def test_an_undo_is_refused_where_somebody_else_changed_the_object(lab: Lab) -> None:
    ended = lab.run(book("  - {id: a, action: toy.set, with: {name: x, value: ours}}"))
    lab.put("x", "theirs")
    undone = lab.undo()
    assert undone.exit == Exit.FAILED
    assert undone.outcome is not None
    assert undone.outcome.error is not None
    assert "changed by somebody else" in undone.outcome.error.message
    assert lab.value("x") == "theirs"
    lab.put("x", "ours")
    assert lab.undo(ended.run_id).exit == Exit.SUCCEEDED
    assert lab.value("x") is None


def test_undo_of_a_finished_run_gives_back_the_observed_state(lab: Lab) -> None:
    lab.put("x", "old")
    lab.run(
        book("""
  - {id: a, action: toy.set, with: {name: x, value: one}}
  - {id: b, action: toy.set, with: {name: x, value: two}}
  - {id: c, action: toy.set, with: {name: y, value: three}}
""")
    )
    ended = lab.undo()
    assert ended.exit == Exit.SUCCEEDED
    assert (lab.value("x"), lab.value("y")) == ("old", None)
    journal = Journal.open(ended.folder.journal, readonly=True)
    assert journal.verify() == []


@pytest.mark.timed
@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("{id: a, action: toy.polite, with: {}, timeout: 300ms}", "timeout"),
        ("{id: a, action: toy.hang, with: {}, timeout: 300ms}", "abandoned"),
        (
            "{id: a, action: shell.run, with: {command: \"trap '' TERM; sleep 99 & sleep 99\"}, timeout: 300ms}",
            "timeout",
        ),
    ],
)
def test_at_its_deadline_work_is_over_within_a_second(lab: Lab, step: str, kind: str) -> None:
    began = time.monotonic()
    ended = lab.run(book(f"  - {step}") + "finally: {steps: [{id: z, action: toy.note, with: {name: z}}]}\n")
    took = time.monotonic() - began
    assert took < 1.3 + 0.7  # 0.3 s of its own time, then at most a second; the rest is for a loaded machine
    assert ended.exit == Exit.FAILED
    result = next(event for event in lab.events(ended) if event.kind == "call.result" and event.key == "a#1")
    assert result.data["status"] == "timed_out"
    assert result.data["error"]["kind"] == kind
    assert bool(result.data.get("abandoned")) == (kind == "abandoned")
    assert lab.log()[-1] == "done z"


def test_a_first_cancel_unwinds_and_a_second_one_leaves_the_rest_for_resume(lab: Lab) -> None:
    lab.put("x", "old")
    text = (
        book("""
  - {id: a, action: toy.set, with: {name: x, value: new}}
  - {id: wait, action: toy.polite, with: {name: one}, undo: none}
""")
        + """
on_failure: {undo: true}
finally:
  steps:
    - {id: slow, action: toy.polite, with: {name: two, seconds: 60}}
    - {id: z, action: toy.note, with: {name: z}}
"""
    )

    def cancel(event: Event) -> None:
        if event.kind == "call.intent" and event.key == "wait#1":
            assert session.cancel("last", world=lab.around) == "told"
        if event.kind == "call.intent" and event.key.endswith("slow#1"):
            threading.Timer(1.1, lambda: session.cancel("last", world=lab.around)).start()

    ended = lab.run(text, listeners=[cancel])
    assert ended.exit == Exit.CANCELLED
    assert lab.value("x") == "old"
    assert [left.phase for left in ended.unfinished] == ["finally"]
    assert "done z" not in lab.log()
    (lab.world / "go").touch()
    finished = lab.resume()
    assert (finished.unfinished, finished.exit) == ((), Exit.CANCELLED)
    assert lab.log()[-2:] == ["start z", "done z"]
    with pytest.raises(RefusedError, match="has ended"):
        lab.resume()


def test_a_cancel_says_what_it_comes_to(lab: Lab) -> None:
    """A nervous finger's second one ends no clean-up, and is told so; nor does a third one anything more."""
    said: list[str] = []

    def again() -> None:
        said.append(session.cancel("last", world=lab.around))

    def cancel(event: Event) -> None:
        if event.kind == "call.intent" and event.key == "wait#1":
            again()
        if event.kind == "stop" and event.key in ("@run", "@hard"):
            again()
        if event.kind == "call.intent" and event.key.endswith("slow#1"):
            threading.Timer(1.1, again).start()

    ended = lab.run(
        book("  - {id: wait, action: toy.polite, with: {name: one}, undo: none}\n")
        + "finally: {steps: [{id: slow, action: toy.polite, with: {name: two, seconds: 60}}]}\n",
        listeners=[cancel],
    )
    assert said == ["told", "a moment ago", "told again", "twice already"]
    assert [left.phase for left in ended.unfinished] == ["finally"]


def test_a_cancel_that_waited_in_the_mailbox_stops_a_resumed_run_before_anything_new(lab: Lab) -> None:
    ended = lab.run(book(f"{ASK}  - {{id: n, action: toy.note, with: {{}}}}"))
    assert ended.exit == Exit.WAITING
    assert session.cancel("last", world=lab.around) == "kept"
    assert session.cancel("last", world=lab.around) == "not acted on yet"
    again = lab.resume()
    assert again.exit == Exit.CANCELLED
    assert lab.log() == []


def test_waiting_for_a_person_ends_the_run_with_its_locks_parked_and_an_answer_goes_on(lab: Lab) -> None:
    text = book(
        "  - {id: ask, action: manual.approve, with: {message: go on}}\n  - {id: n, action: toy.note, with: {name: n}}",
        "locks: [l]",
    )
    ended = lab.run(text, options=session.Options(initiator="ann"))
    assert (ended.exit, ended.status) == (Exit.WAITING, "waiting")
    assert [question.step for question in ended.questions] == ["ask"]
    other = lab.run(text)
    assert other.exit == Exit.REFUSED
    assert other.outcome is not None
    assert other.outcome.error is not None
    assert "waits for a person" in other.outcome.error.message
    assert session.answer(ended.run_id, "ask", Answer("approve", "bob", time.time()), world=lab.around) is False
    again = lab.resume(ended.run_id)
    assert again.exit == Exit.SUCCEEDED
    assert lab.log() == ["start n", "done n"]
    answered = next(event for event in lab.events(again) if event.kind == "answered")
    assert answered.data["outputs"]["by"] == ["bob"]


def test_two_people_must_approve_and_neither_is_the_initiator(lab: Lab) -> None:
    ended = lab.run(
        book(
            "  - id: ask\n    action: manual.approve\n"
            "    with: {message: m, by: 2, not_initiator: true, approvers: [ann, bob, cid]}"
        ),
        options=session.Options(initiator="ann"),
    )

    def answer(who: str) -> None:
        session.answer(ended.run_id, "ask", Answer("approve", who, time.time()), world=lab.around)

    with pytest.raises(RefusedError, match="may not approve"):
        answer("ann")
    with pytest.raises(RefusedError, match="may not approve"):
        answer("eve")
    answer("bob")
    assert lab.resume().exit == Exit.WAITING
    with pytest.raises(RefusedError, match="already"):
        answer("bob")
    answer("cid")
    assert lab.resume().exit == Exit.SUCCEEDED


def test_a_terminal_is_asked_and_a_refusal_cancels_the_run(lab: Lab) -> None:
    asked: list[Question] = []

    def ask(question: Question) -> Answer:
        asked.append(question)
        return Answer("decline", "ann", time.time(), "not today")

    ended = lab.run(
        book("  - {id: ask, action: manual.approve, with: {message: m}}\n  - {id: n, action: toy.note, with: {}}"),
        ask=ask,
    )
    assert [question.text for question in asked] == ["m"]
    assert ended.exit == Exit.CANCELLED
    assert lab.log() == []


def test_a_persons_time_goes_on_while_the_box_stands_still(lab: Lab) -> None:
    """The playbook has half a second for its work, the person takes a second: neither is in the other's way."""

    def ask(question: Question) -> Answer:
        time.sleep(1.0)
        return Answer("a", "ann", time.time())

    ended = lab.run(
        book(
            "  - {id: ask, action: manual.choose, with: {message: m, choices: {a: A}}}\n"
            "  - {id: n, action: toy.note, with: {}}",
            "timeout: 700ms",
        ),
        ask=ask,
    )
    assert ended.exit == Exit.SUCCEEDED


@pytest.mark.timed
def test_a_choose_takes_its_default_at_its_timeout(lab: Lab) -> None:
    def ask(question: Question) -> Answer:
        time.sleep(30)
        raise AssertionError

    began = time.monotonic()
    ended = lab.run(
        book(
            "  - {id: ask, action: manual.choose, timeout: 500ms,\n"
            "     with: {message: m, choices: {a: A, b: B}, default: b}}\n"
            '  - {id: n, action: toy.note, with: {name: "{{ steps.ask.outputs.choice }}"}}'
        ),
        ask=ask,
    )
    assert ended.exit == Exit.SUCCEEDED
    assert lab.log()[-1] == "done b"
    assert time.monotonic() - began < 3


def test_outputs_are_bounded(lab: Lab) -> None:
    ended = lab.run(book("  - {id: t, action: toy.big, with: {}}\n  - {id: l, action: toy.big, with: {name: list}}"))
    results = {event.key: event.data for event in lab.events(ended) if event.kind == "call.result"}
    assert results["t#1"]["outputs"]["truncated"] is True
    assert len(results["t#1"]["outputs"]["stdout"].encode()) <= 1024 * 1024
    assert results["l#1"]["status"] == "failed"
    assert "structured data" in results["l#1"]["error"]["message"]


def test_a_bug_in_an_action_is_that_steps_failure(lab: Lab) -> None:
    ended = lab.run(book("  - {id: a, action: toy.note, with: {fail: bug}}"))
    assert ended.exit == Exit.FAILED
    result = next(event for event in lab.events(ended) if event.kind == "call.result")
    assert result.data["error"]["kind"] == "bug"


def test_no_secret_reaches_the_journal_or_the_log(tmp_path: Path) -> None:
    lab = Lab.at(tmp_path, TOKEN="hunter2-hunter2")
    text = book(
        """
  - {id: a, action: toy.note, with: {name: a, text: "Bearer {{ secrets.token }}"}, outputs: {}}
  - {id: b, action: toy.note, with: {name: b, text: "{{ secrets.token }}", fail: broke}}
""",
        "secrets: {token: {env: TOKEN}}",
    )
    ended = lab.run(text)
    assert ended.exit == Exit.FAILED
    result = next(event for event in lab.events(ended) if event.kind == "call.result" and event.key == "a#1")
    assert result.data["outputs"]["text"] == "Bearer ‹secret:token›"
    for path in ended.folder.path.rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path


def test_a_record_of_another_playbook_is_refused_and_nothing_is_touched(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = lab.run(
        book(
            "  - {id: n, action: toy.note, with: {name: n}}\n"
            "  - {id: ask, action: manual.approve, with: {message: m}}\n"
            "  - {id: o, action: toy.note, with: {}}"
        )
    )
    assert ended.exit == Exit.WAITING
    before = lab.events()
    other = lab.load(
        book("  - {id: n, action: toy.note, with: {name: OTHER}}\n  - {id: o, action: toy.note, with: {}}")
    )
    monkeypatch.setattr("runbook.interpreter.load.load", lambda *_: other)
    with pytest.raises(NonDeterminismError) as caught:
        lab.resume()
    assert caught.value.exit == Exit.BUG
    assert lab.events() == before
    assert lab.log() == ["start n", "done n"]


@pytest.mark.timed
def test_replay_of_ten_thousand_steps_is_quick(lab: Lab) -> None:
    text = book(
        """
  - foreach: {items: "{{ range(2000) | list }}", as: i}
    id: each
    steps:
      - {id: a, action: flow.set, with: {values: {n: "{{ i }}"}}}
  - {id: ask, action: manual.approve, with: {message: m}}
"""
    )
    assert lab.run(text).exit == Exit.WAITING
    began = time.monotonic()
    assert lab.resume().exit == Exit.WAITING
    assert time.monotonic() - began < 5


def test_a_wait_is_a_recorded_moment_and_clocks_never_jump() -> None:
    now, unix = [100.0], [1_000_000.0]
    clock = Clock(50.0, 2_000_000.0, monotonic=lambda: now[0], unix=lambda: unix[0])
    assert (clock.running(), clock.wall()) == (50.0, 2_000_000.0)  # the record is later than the machine's clock
    now[0] += 7
    unix[0] -= 1e9
    assert (clock.running(), clock.wall()) == (57.0, 2_000_007.0)
    clock.hold()
    now[0] += 3
    assert (clock.running(), clock.wall()) == (57.0, 2_000_010.0)
    clock.go()
    now[0] += 1
    assert (clock.running(), clock.wall()) == (58.0, 2_000_011.0)


def test_jitter_is_the_same_for_the_same_key() -> None:
    found = {jittered("run", f"k{n}") for n in range(200)}
    assert len(found) == 200
    assert all(0.8 <= value <= 1.2 for value in found)
    assert jittered("run", "k1") == jittered("run", "k1")


@pytest.mark.timed
def test_notifications_never_hold_the_recovery_and_what_is_left_is_told(lab: Lab) -> None:
    began = time.monotonic()
    ended = lab.run(
        book(
            "  - {id: t, action: toy.tell, with: {name: slack, seconds: 2}}\n"
            "  - {id: n, action: toy.note, with: {name: n}}"
        )
    )
    events = lab.events(ended)
    done = next(event for event in events if event.kind == "step.ended" and event.key == "n")
    told = next(event for event in events if event.kind == "call.result" and event.key == "t#1")
    assert done.at < 1.0 < told.at
    assert time.monotonic() - began < 6


def test_a_listener_that_fails_is_left_out_and_the_run_goes_on(lab: Lab, capsys: Any) -> None:
    def broken(event: Event) -> None:
        raise OSError("the terminal went away")

    assert lab.run(book("  - {id: n, action: toy.note, with: {}}"), listeners=[broken]).exit == Exit.SUCCEEDED
    assert "the terminal went away" in capsys.readouterr().err
