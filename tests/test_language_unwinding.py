"""How scopes end: stopping, unwinding, undo, temporary changes, clean-up that is left (docs/language.md)."""

# ruff: noqa: E501  # steps in one line each read as a table

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runbook.interpreter.errors import RefusedError
from runbook.runner.journal import Event
from tests.language import HEAD, Exit, Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.at(tmp_path)


SET = "{id: set, action: toy.set, with: {name: x, value: new}}"
FAIL = "{id: fail, action: toy.get, fail_when: 'true'}"
WAIT = "{id: wait, action: flow.wait, with: {for: 60s}}"


def note(name: str, more: str = "") -> str:
    return f"{{id: {name}, action: toy.note, undo: none, with: {{name: {name}{more}}}}}"


# --- unwinding

# name: playbook, exit, what happened in order; `x` is `old` before
ENDS: dict[str, tuple[str, Exit, list[str]]] = {
    "undo, on_failure, temporary, finally, in that order": (
        f"steps: [{{id: b, on_failure: {{undo: true, steps: [{note('handler')}]}}, finally: {{steps: [{note('last')}]}}, steps: [{{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: 1}}}}, {SET}, {FAIL}]}}]",
        Exit.FAILED, ["q=1", "x=new", "x=old", "q=None", "handler", "last"],
    ),
    "without undo a temporary change is given back after on_failure": (
        f"steps: [{{id: b, on_failure: {{steps: [{note('handler')}]}}, finally: {{steps: [{note('last')}]}}, steps: [{{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: 1}}}}, {SET}, {FAIL}]}}]",
        Exit.FAILED, ["q=1", "x=new", "handler", "q=None", "last"],
    ),
    "the innermost scope first, then the root's": (
        f"steps: [{{id: b, on_failure: {{steps: [{note('inner')}]}}, steps: [{FAIL}], finally: {{steps: [{note('inner_last')}]}}}}]\non_failure: {{steps: [{note('root')}]}}\nfinally: {{steps: [{note('root_last')}]}}",
        Exit.FAILED, ["inner", "inner_last", "root", "root_last"],
    ),
    "a time-out unwinds as a failure does": (
        f"steps: [{{id: b, timeout: 200ms, on_failure: {{undo: true, steps: [{note('handler')}]}}, steps: [{SET}, {WAIT}]}}]",
        Exit.FAILED, ["x=new", "x=old", "handler"],
    ),
    "temporary: given back when its block ends well": (
        f"steps: [{{id: b, steps: [{{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: 1}}}}, {note('work')}]}}, {note('after')}]",
        Exit.SUCCEEDED, ["q=1", "work", "q=None", "after"],
    ),
    "temporary: given back at the end of each iteration": (
        f"steps: [{{id: b, foreach: {{items: [1, 2], as: i}}, steps: [{{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: '{{{{ i }}}}'}}}}, {note('work')}]}}]",
        Exit.SUCCEEDED, ["q=1", "work", "q=None", "q=2", "work", "q=None"],
    ),
    "temporary of an opaque action: its undo steps": (
        f"steps: [{{id: b, steps: [{{id: stop, action: toy.note, with: {{name: stop}}, temporary: true, undo: {{steps: [{{id: go, action: toy.note, with: {{name: 'go after {{{{ steps.stop.outputs.name }}}}'}}}}]}}}}, {note('work')}]}}]",
        Exit.SUCCEEDED, ["stop", "work", "go after stop"],
    ),
    "temporary of a block: all that it changed, when the block around it ends": (
        f"steps: [{{id: o, steps: [{{id: b, temporary: true, steps: [{SET}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}]}}, {note('work')}]}}, {note('after')}]",
        Exit.SUCCEEDED, ["x=new", "y=1", "work", "y=None", "x=old", "after"],
    ),
    "however it ends": (
        f"steps: [{{id: o, on_failure: continue, steps: [{{id: b, temporary: true, steps: [{SET}, {FAIL}]}}, {note('work')}]}}, {note('after')}]",
        Exit.SUCCEEDED, ["x=new", "x=old", "after"],
    ),
    "of a foreach, with its restarts last": (
        f"steps: [{{id: o, steps: [{{id: b, temporary: true, foreach: {{items: [1, 2], as: i}}, steps: [{{id: y, action: toy.set, with: {{name: 'y{{{{ i }}}}', value: 1}}}}, {{id: r, action: toy.restart, with: {{name: 'r{{{{ i }}}}'}}}}]}}, {note('work')}]}}]",
        Exit.SUCCEEDED, ["y1=1", "restart r1", "y2=1", "restart r2", "work", "y2=None", "y1=None", "restart r2", "restart r1"],
    ),
    "finally runs after success, too": (
        f"steps: [{note('work')}]\nfinally: {{steps: [{note('last')}]}}",
        Exit.SUCCEEDED, ["work", "last"],
    ),
    "on_failure: continue": (
        f"steps: [{{id: b, on_failure: continue, steps: [{SET}, {FAIL}]}}, {note('after')}]",
        Exit.SUCCEEDED, ["x=new", "after"],
    ),
    "then: continue comes after undo and steps": (
        f"steps: [{{id: b, on_failure: {{undo: true, steps: [{note('handler')}], then: continue}}, steps: [{SET}, {FAIL}]}}, {note('after')}]",
        Exit.SUCCEEDED, ["x=new", "x=old", "handler", "after"],
    ),
    "continue swallows the scope's own time-out": (
        f"steps: [{{id: b, timeout: 200ms, on_failure: continue, steps: [{WAIT}]}}, {note('after')}]",
        Exit.SUCCEEDED, ["after"],
    ),
    "nothing swallows an outer deadline": (
        f"timeout: 300ms\nsteps: [{{id: b, on_failure: continue, steps: [{SET}, {{id: f, fallback: [{WAIT}, {note('other')}]}}]}}, {note('after')}]\non_failure: {{undo: true}}",
        Exit.FAILED, ["x=new", "x=old"],
    ),
    "a handler's own failure never stops the later ones": (
        f"steps: [{{id: b, on_failure: {{steps: [{FAIL.replace('fail,', 'worse,')}, {note('no')}]}}, steps: [{FAIL}], finally: {{steps: [{note('last')}]}}}}]",
        Exit.FAILED, ["last"],
    ),
    "a failing finally fails a scope that succeeded, and continue does not swallow it": (
        f"steps: [{{id: b, on_failure: continue, steps: [{note('work')}], finally: {{steps: [{FAIL}]}}}}, {note('after')}]",
        Exit.FAILED, ["work"],
    ),
    "a failing return fails a scope that succeeded": (
        f"steps: [{{id: b, on_failure: continue, steps: [{{id: t, action: toy.note, temporary: true, with: {{name: t}}, undo: {{steps: [{FAIL}]}}}}]}}, {note('after')}]",
        Exit.FAILED, ["t"],
    ),
    "an action may have handlers of its own": (
        f"steps: [{{id: a, action: toy.set, with: {{name: x, value: new, fail: lost}}, on_failure: undo, finally: {{steps: [{note('last')}]}}}}]",
        Exit.FAILED, ["x=new", "x=old", "last"],
    ),
    "an exception inside an action is a failure like any other": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: bug, action: toy.note, undo: none, with: {{name: bug, fail: bug}}}}]}}]",
        Exit.FAILED, ["x=new", "x=old"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_ends(name: str, room: Room) -> None:
    text, exit_, done = ENDS[name]
    room.put("x", "old")
    played = room.played(text)
    assert (played.exit, list(played.done)) == (exit_, done)


def test_a_handlers_failure_is_recorded_and_never_hides_the_first(room: Room) -> None:
    played = room.played(f"""
steps:
  - id: b
    steps: [{{id: first, action: toy.note, with: {{fail: first}}}}]
    on_failure: {{steps: [{{id: second, action: toy.note, with: {{fail: second}}}}]}}
    finally: {{steps: [{{id: third, action: toy.note, with: {{fail: third}}}}, {note("no")}]}}
finally:
  steps: [{{id: told, action: flow.set, with: {{values: {{f: "{{{{ failure }}}}"}}}}}}]
""")
    assert played.error().startswith("first")
    assert [fault["message"].strip() for fault in played.step("b")["others"]] == [
        "on_failure: second",
        "finally: third",
    ]
    failure = played.values("!finally/told")["f"]
    assert (failure["step"], failure["path"], failure["kind"]) == ("first", "b/first", "failed")
    assert [fault["message"].strip() for fault in failure["others"]] == ["on_failure: second", "finally: third"]


# --- cancel

CANCELS: dict[str, tuple[str, dict[str, float], Exit, list[str]]] = {
    "a cancel unwinds, and continue does not swallow it": (
        f"steps: [{{id: b, on_failure: {{undo: true, then: continue}}, steps: [{SET}, {WAIT}]}}, {note('after')}]",
        {"b/wait": 0.1}, Exit.CANCELLED, ["x=new", "x=old"],
    ),
    "nor keep_going": (
        f"steps: [{{id: b, keep_going: true, steps: [{WAIT}, {note('other')}]}}]",
        {"b/wait": 0.1}, Exit.CANCELLED, [],
    ),
    "nor the next alternative": (
        f"steps: [{{id: b, fallback: [{WAIT}, {note('other')}]}}]",
        {"b/wait": 0.1}, Exit.CANCELLED, [],
    ),
    "nor retry": (
        f"steps: [{{id: wait, action: toy.polite, undo: none, retry: {{delay: 10ms}}, idempotent: true}}, {note('after')}]",
        {"wait#1": 0.1}, Exit.CANCELLED, [],
    ),
    "a cancel during clean-up waits for it; work goes no further": (
        f"steps: [{{id: b, steps: [{note('work')}], finally: {{steps: [{note('tidy', ', seconds: 0.4')}, {note('tidy2')}]}}}}, {note('after')}]\non_failure: {{steps: [{note('root')}]}}",
        {"b!finally/tidy": 0.1}, Exit.CANCELLED, ["work", "tidy", "tidy2", "root"],
    ),
    "also where no work was left: the cancel has its scope, the root, unwound": (
        f"steps: [{{id: b, steps: [{SET}], finally: {{steps: [{note('tidy', ', seconds: 0.4')}]}}}}]\non_failure: {{undo: true}}",
        {"b!finally/tidy": 0.1}, Exit.CANCELLED, ["x=new", "tidy", "x=old"],
    ),
    "and where a failure was about to be swallowed": (
        f"steps: [{{id: b, on_failure: {{steps: [{note('handler', ', seconds: 0.4')}], then: continue}}, steps: [{SET}, {FAIL}]}}]\non_failure: {{undo: true}}",
        {"b!on_failure/handler": 0.1}, Exit.CANCELLED, ["x=new", "handler", "x=old"],
    ),
    "if both came, the outermost decides: an inner time-out does not swallow a cancel": (
        f"steps: [{{id: b, timeout: 500ms, on_failure: {{steps: [{note('handler', ', seconds: 0.3')}], then: continue}}, steps: [{WAIT}]}}, {note('after')}]",
        {"b!on_failure/handler": 0.1}, Exit.CANCELLED, ["handler"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CANCELS)
def test_cancel(name: str, room: Room) -> None:
    text, cancels, exit_, done = CANCELS[name]
    room.put("x", "old")
    played = room.played(text, cancels=cancels)
    assert (played.exit, list(played.done)) == (exit_, done)


def test_a_deadline_that_arrives_during_clean_up_waits_then_unwinds_its_own_scope(room: Room) -> None:
    room.put("x", "old")
    played = room.played(f"""
steps:
  - id: outer
    timeout: 300ms
    on_failure: {{undo: true, steps: [{note("outer_handler")}], then: continue}}
    steps:
      - id: inner
        steps: [{SET}]
        finally: {{steps: [{note("tidy", ", seconds: 0.5")}]}}
  - {note("after")}
""")
    assert (played.exit, played.steps["outer"]) == (Exit.SUCCEEDED, "timed_out")
    assert list(played.done) == ["x=new", "tidy", "x=old", "outer_handler", "after"]


def test_a_scopes_own_deadline_does_not_touch_its_own_clean_up(room: Room) -> None:
    played = room.played(f"""
steps:
  - {{id: b, timeout: 300ms, steps: [{note("work")}], finally: {{steps: [{note("tidy", ", seconds: 0.5")}]}}}}
  - {note("after")}
""")
    assert (played.exit, list(played.done)) == (Exit.SUCCEEDED, ["work", "tidy", "after"])


def test_each_phase_of_each_scope_has_its_own_cleanup(room: Room) -> None:
    """Each of four phases takes 0.3 s of its 0.7 s; one that takes longer is cut, and the next has its time again."""
    slow = note("handler", ", seconds: 0.3")
    played = room.played(f"""
cleanup: 700ms
steps:
  - id: b
    steps: [{FAIL}]
    on_failure: {{steps: [{slow}]}}
    finally: {{steps: [{{id: long, action: toy.polite, undo: none}}, {note("never")}]}}
on_failure: {{steps: [{slow.replace("id: handler", "id: two")}]}}
finally: {{steps: [{slow.replace("id: handler", "id: three")}]}}
""")
    assert list(played.done) == ["handler", "handler", "handler"]
    assert played.step("b!finally")["status"] == "timed_out"
    assert "0.7s of cleanup" in played.step("b")["others"][0]["message"]


def test_an_undo_afterwards_has_the_roots_cleanup_for_its_time(room: Room) -> None:
    played = room.played(f"""
cleanup: 700ms
steps:
  - {{id: b, steps: [{note("work")}], undo: {{steps: [{{id: long, action: toy.polite, undo: none}}]}}}}
""")
    assert played.exit == Exit.SUCCEEDED
    undone = room.undo()
    assert undone.exit == Exit.FAILED
    assert undone.outcome is not None
    assert undone.outcome.error is not None
    assert undone.outcome.error.message == "not done in the 0.7s of cleanup"


# --- a second cancel

LEFT = f"""
steps:
  - id: b
    on_failure: {{undo: true, steps: [{note("handler")}]}}
    finally: {{steps: [{note("last")}]}}
    steps:
      - {{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: 1}}}}
      - {SET}
      - {{id: stuck, action: toy.note, with: {{name: stuck}}, undo: {{steps: [{{id: hang, action: toy.polite, undo: none}}, {note("unstuck")}]}}}}
      - {WAIT}
finally: {{steps: [{note("root_last")}]}}
"""


def test_a_second_cancel_leaves_the_rest_open_and_resume_finishes_only_the_clean_up(room: Room) -> None:
    room.put("x", "old")
    played = room.played(LEFT, cancels={"b/wait": 0.0, "b!undo": 1.3})
    assert (played.exit, list(played.done)) == (Exit.CANCELLED, ["q=1", "x=new", "stuck"])
    left = [f"{one.path}!{one.phase}" for one in played.ended.unfinished]
    assert left == ["b!undo", "b!on_failure", "b!temporary", "b!finally", "!finally"]
    assert [one["phase"] for one in played.of("run.ended", "")["unfinished"]] == [one.partition("!")[2] for one in left]
    (room.world / "go").touch()
    finished = room.resumed()
    assert list(finished.done) == ["unstuck", "x=old", "q=None", "handler", "last", "root_last"]
    assert (finished.exit, finished.ended.unfinished) == (Exit.CANCELLED, ())
    with pytest.raises(RefusedError, match="has ended"):
        room.resumed()


def test_two_cancels_within_a_second_are_one(room: Room) -> None:
    played = room.played(
        f"steps: [{WAIT}]\nfinally: {{steps: [{note('tidy', ', seconds: 0.4')}]}}",
        cancels={"wait": 0.0, "!finally": 0.1},
    )
    assert (played.exit, list(played.done), played.ended.unfinished) == (Exit.CANCELLED, ["tidy"], ())


# --- undo

# name: playbook, what happened after the failure, `x` is `old` and `y` nothing before
UNDO: dict[str, tuple[str, list[str]]] = {
    "newest first by journal number": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}, {{id: x2, action: toy.set, with: {{name: x, value: newer}}}}, {FAIL}]}}]",
        ["x=new", "y=None", "x=old"],
    ),
    "whatever the change's own status": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET[:-2]}, fail: lost}}, on_failure: continue}}, {FAIL}]}}]",
        ["x=old"],
    ),
    "over retries `before` is that of the first attempt": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET[:-2]}, times: 2}}, retry: {{delay: 10ms}}}}, {FAIL}]}}]",
        ["x=old"],
    ),
    "already so: there is nothing to take back": (
        f"steps: [{{id: b, on_failure: undo, steps: [{{id: same, action: toy.set, with: {{name: x, value: old}}}}, {FAIL}]}}]",
        [],
    ),
    "undo: none is accepted and left": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: y, action: toy.set, undo: none, with: {{name: y, value: 1}}}}, {FAIL}]}}]",
        ["x=old"],
    ),
    "undo steps see the scope of the step's end": (
        f"steps: [{{id: b, on_failure: undo, steps: [{{id: read, action: toy.get, with: {{name: x}}}}, {{id: n, action: toy.note, with: {{name: n}}, undo: {{steps: [{{id: back, action: toy.note, with: {{name: 'back {{{{ steps.read.outputs.value }}}} {{{{ result.name }}}}'}}}}]}}}}, {FAIL}]}}]",
        ["back old n"],
    ),
    "the undo steps of a block stand for all that is inside": (
        f"steps: [{{id: b, on_failure: undo, steps: [{{id: inner, undo: {{steps: [{{id: back, action: toy.note, with: {{name: back}}}}]}}, steps: [{SET}]}}, {FAIL}]}}]",
        ["back"],
    ),
    "`again` steps last, once something was undone": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: r, action: toy.restart, with: {{name: web}}}}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}, {FAIL}]}}]",
        ["y=None", "x=old", "restart web"],
    ),
    "the author may say it of an opaque action": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: flush, undo: again, action: toy.note, with: {{name: flush}}}}, {FAIL}]}}]",
        ["x=old", "flush"],
    ),
    "and not where nothing was": (
        f"steps: [{{id: b, on_failure: undo, steps: [{{id: r, action: toy.restart, with: {{name: web}}}}, {FAIL}]}}]",
        [],
    ),
    "a temporary block at its place": (
        f"steps: [{{id: b, on_failure: undo, steps: [{{id: in, steps: [{{id: t, temporary: true, steps: [{SET}]}}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}]}}, {FAIL}]}}]",
        ["x=old", "x=new", "y=None", "x=old"],
    ),
    "temporaries at their place": (
        f"steps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: in, steps: [{{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: 1}}}}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}]}}, {FAIL}]}}]",
        ["q=None", "q=1", "y=None", "q=None", "x=old"],
    ),
    "handlers' changes included": (
        f"steps: [{{id: b, on_failure: undo, steps: [{{id: in, steps: [{SET}], finally: {{steps: [{{id: y, action: toy.set, with: {{name: y, value: 1}}}}]}}}}, {FAIL}]}}]",
        ["y=None", "x=old"],
    ),
    "an undo erases: an outer one repeats neither the change nor its inverse": (
        f"steps: [{{id: o, on_failure: undo, steps: [{{id: b, on_failure: {{undo: true, then: continue}}, steps: [{SET}, {FAIL}]}}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}, {FAIL.replace('fail,', 'fail2,')}]}}]",
        ["x=old", "y=1", "y=None"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDO)
def test_undo(name: str, room: Room) -> None:
    text, done = UNDO[name]
    room.put("x", "old")
    played = room.played(text)
    began = len(played.done) - len(done)
    assert (played.exit, list(played.done)[began:]) == (Exit.FAILED, done)
    if "accepted" not in name and "stand for" not in name:
        assert (room.value("x"), room.value("y")) == ("old", None)


def test_undo_stops_at_the_first_inverse_that_is_refused_because_somebody_else_was_there(room: Room) -> None:
    room.put("x", "old")

    def meddle(event: Event) -> None:
        if event.kind == "step.ended" and event.key == "b/y":
            room.put("y", "theirs")

    text = f"runbook: 1\nname: p\nsteps: [{{id: b, on_failure: undo, steps: [{SET}, {{id: y, action: toy.set, with: {{name: y, value: 1}}}}, {{id: z, action: toy.set, with: {{name: z, value: 1}}}}, {FAIL}]}}]\n"
    ended = room.run(text, listeners=[meddle])
    assert ended.exit == Exit.FAILED
    assert [room.value(name) for name in "xyz"] == ["new", "theirs", None]  # z is back; y is refused; x is not touched
    block = next(event.data for event in room.events(ended) if (event.kind, event.key) == ("step.ended", "b"))
    assert "undo: stopped at b/y" in block["others"][0]["message"]
    assert block["undone"] is False


def test_undone_is_a_flag_beside_the_status(room: Room) -> None:
    played = room.played(f"""
steps:
  - {{id: b, on_failure: {{undo: true, then: continue}}, steps: [{SET}, {FAIL}]}}
  - {{id: seen, action: flow.set, with: {{values: {{b: "{{{{ steps.b.undone }}}}", set: "{{{{ steps.set.undone }}}}", status: "{{{{ steps.set.status }}}}", failed: "{{{{ steps.b.status }}}}"}}}}}}
""")
    assert played.values("seen") == {"b": True, "set": True, "status": "succeeded", "failed": "failed"}


def test_a_steps_own_handlers_see_how_it_ended_and_whether_it_was_undone(room: Room) -> None:
    show = '{id: show, action: flow.set, with: {values: {b: "{{ [steps.b.status, steps.b.undone, steps.b.error.message, failure.undo] }}"}}}'
    played = room.played(f"""
steps:
  - id: b
    on_failure: {{undo: true, steps: [{show}]}}
    finally: {{steps: [{show.replace("show", "shown")}]}}
    steps: [{SET}, {{id: bad, action: toy.note, undo: none, with: {{fail: broken}}}}]
""")
    seen = ["failed", True, "broken ", "succeeded"]
    assert played.values("b!on_failure/show")["b"] == played.values("b!finally/shown")["b"] == seen


def test_runbook_undo_takes_a_whole_run_back_newest_first_and_once(room: Room) -> None:
    room.put("x", "old")
    room.played(f"""
steps:
  - {SET}
  - {{id: b, on_failure: {{undo: true, then: continue}}, steps: [{{id: w, action: toy.set, with: {{name: w, value: 1}}}}, {FAIL}]}}
  - {{id: r, action: toy.restart, with: {{name: web}}}}
finally:
  steps: [{{id: y, action: toy.set, with: {{name: y, value: 1}}}}]
""")
    undone = room.undone()
    assert (undone.exit, list(undone.done)) == (Exit.SUCCEEDED, ["y=None", "x=old", "restart web"])
    assert list(room.undone().done) == []


def test_the_default_of_cleanup_holds_the_worst_case_of_each_phase(room: Room) -> None:
    """Each inverse may take as long as an attempt of its step; at least a minute."""
    long = "action: toy.set, timeout: 10m, with: {name: x, value: 1}"
    for text, seconds in {
        f"steps: [{{id: a, {long}}}]\n": 60.0,
        f"steps: [{{id: a, temporary: true, {long}}}]\n": 600.0,
        f"steps: [{{id: a, temporary: true, steps: [{{id: b, {long}}}, {{id: c, {long}}}]}}]\n": 1200.0,
        f"on_failure: {{undo: true}}\nsteps: [{{id: a, {long}}}]\n": 600.0,
        f"cleanup: 5m\non_failure: {{undo: true}}\nsteps: [{{id: a, {long}}}]\n": 300.0,
    }.items():
        playbook = room.load(HEAD + text).playbook
        assert playbook is not None
        assert playbook.cleanup == seconds, text


def test_temporary_is_given_back_on_resume_too(room: Room) -> None:
    """The run waits for a person inside the block; an answer in another process ends it."""
    played = room.played(f"""
steps:
  - id: b
    steps:
      - {{id: quiet, action: toy.set, temporary: true, with: {{name: q, value: 1}}}}
      - {{id: ask, action: manual.approve, with: {{message: m}}}}
  - {note("after")}
""")
    assert (played.exit, room.value("q")) == (Exit.WAITING, "1")
    room.answered("ask", "approve")
    assert list(room.resumed().done) == ["q=None", "after"]


def test_temporary_is_given_back_when_the_resumed_run_is_cancelled(room: Room) -> None:
    room.played("""
steps:
  - {id: quiet, action: toy.set, temporary: true, with: {name: q, value: 1}}
  - {id: ask, action: manual.approve, with: {message: m}}
""")
    assert list(room.resumed(cleanup_only=True).done) == ["q=None"]


@pytest.mark.timed
def test_work_is_over_within_a_second_of_its_deadline_whatever_it_does(room: Room) -> None:
    began = time.monotonic()
    played = room.played(f"""
timeout: 300ms
steps:
  - id: p
    parallel:
      - {{id: shell, action: shell.run, with: {{command: "trap '' TERM; sleep 60"}}}}
      - {{id: hang, action: toy.hang}}
      - {WAIT}
finally: {{steps: [{note("last")}]}}
""")
    assert (played.exit, list(played.done)) == (Exit.FAILED, ["last"])
    assert time.monotonic() - began < 1.3 + 1.0  # the last second is a loaded machine's
    assert played.of("call.result", "p/hang#1")["abandoned"] is True


def test_locks_are_held_while_the_step_and_its_unwinding_run(room: Room) -> None:
    """The sibling that wants the lock comes after the other's undo, not before."""
    room.put("x", "old")
    played = room.played(f"""
steps:
  - id: p
    keep_going: true
    parallel:
      - {{id: one, locks: [l], on_failure: undo, steps: [{SET}, {{id: w, action: flow.wait, with: {{for: 200ms}}}}, {FAIL}]}}
      - {{id: two, steps: [{{id: w2, action: flow.wait, with: {{for: 50ms}}}}, {{id: n, locks: [l], action: toy.note, with: {{name: two}}}}]}}
""")
    assert list(played.done) == ["x=new", "x=old", "two"]
