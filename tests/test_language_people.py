"""People, notifications, sub-playbooks and locks (docs/language.md)."""

# ruff: noqa: E501  # steps in one line each read as a table

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from runbook.contract import Context, Notify, Outputs
from runbook.interpreter.effects import Question
from runbook.interpreter.errors import RefusedError
from runbook.interpreter.load import load
from runbook.runner.locks import Locks
from runbook.runner.people import Answer
from tests.language import Exit, Room, approve, decline
from tests.runner_toys import Args, log_line, world_of


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.at(tmp_path)


def note(name: str, more: str = "") -> str:
    return f"{{id: {name}, action: toy.note, undo: none, with: {{name: {name}{more}}}}}"


SET = "{id: set, action: toy.set, with: {name: x, value: new}}"
ASK = "{id: ask, action: manual.approve, with: {message: go on}}"


# --- people

# name: playbook, exit, what happened; everybody who is asked declines
DECLINED: dict[str, tuple[str, Exit, list[str]]] = {
    "a refusal cancels the run: it is no failure, and everything unwinds": (
        f"steps: [{{id: b, on_failure: {{undo: true, then: continue}}, steps: [{SET}, {ASK}]}}, {note('after')}]",
        Exit.CANCELLED, ["x=new", "x=None"],
    ),
    "no fallback swallows it": (
        f"steps: [{{id: f, fallback: [{ASK}, {note('other')}]}}]",
        Exit.CANCELLED, [],
    ),
    "inside a handler it is that handler's failure": (
        f"steps: [{note('work')}]\nfinally: {{steps: [{ASK}, {note('after')}]}}",
        Exit.FAILED, ["work"],
    ),
    "also where the run failed before": (
        f"steps: [{{id: bad, action: toy.note, with: {{fail: first}}}}]\non_failure: {{steps: [{ASK}]}}\nfinally: {{steps: [{note('last')}]}}",
        Exit.FAILED, ["last"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLINED)
def test_a_refusal(name: str, room: Room) -> None:
    text, exit_, done = DECLINED[name]
    played = room.played(text, ask=decline)
    assert (played.exit, list(played.done)) == (exit_, done)


def test_an_answer_is_journaled_with_who_and_when(room: Room) -> None:
    began = time.time()
    played = room.played(
        f'steps: [{ASK}, {{id: v, action: flow.set, with: {{values: {{by: "{{{{ steps.ask.outputs.by }}}}", at: "{{{{ steps.ask.outputs.at }}}}"}}}}}}]',
        ask=approve,
    )
    assert played.values("v")["by"] == ["bob"]
    answer = played.of("answered", "ask#1")
    assert answer["outputs"]["by"] == ["bob"]
    assert answer["outputs"]["at"] == played.values("v")["at"]
    assert began - 1 <= played.all("answered")[0].wall


# name: parameters, answers (by, choice, whether it counts), exit at the end
APPROVALS: dict[str, tuple[str, list[tuple[str, str, bool]], Exit]] = {
    "by: 2 are two people": ("by: 2", [("bob", "approve", True), ("bob", "approve", False), ("cid", "approve", True)], Exit.SUCCEEDED),
    "one of them declines": ("by: 2", [("bob", "approve", True), ("cid", "decline", True)], Exit.CANCELLED),
    "not_initiator": ("not_initiator: true", [("ann", "approve", False), ("bob", "approve", True)], Exit.SUCCEEDED),
    "who started it may still decline": ("not_initiator: true", [("ann", "decline", True)], Exit.CANCELLED),
    "approvers": ("approvers: [cid]", [("bob", "approve", False), ("cid", "approve", True)], Exit.SUCCEEDED),
}  # fmt: skip


@pytest.mark.parametrize("name", APPROVALS)
def test_approvals(name: str, room: Room) -> None:
    keys, answers, exit_ = APPROVALS[name]
    played = room.played(f"steps: [{{id: ask, action: manual.approve, with: {{message: m, {keys}}}}}, {note('after')}]")
    for who, choice, counts in answers:
        assert played.exit == Exit.WAITING
        if not counts:
            with pytest.raises(RefusedError):
                room.answered("ask", choice, who)
            continue
        room.answered("ask", choice, who)
        played = room.resumed()
    assert played.exit == exit_
    assert room.log().count("done after") == (exit_ == Exit.SUCCEEDED)


def nobody(question: Question) -> Answer | None:
    time.sleep(60)
    return None


def test_at_its_timeout_a_choose_takes_its_default_and_the_others_fail(room: Room) -> None:
    played = room.played(
        """
steps:
  - id: p
    keep_going: 4
    parallel:
      - {id: pick, action: manual.choose, timeout: 300ms, with: {message: m, choices: {a: A, b: B}, default: b}}
      - {id: open, action: manual.choose, timeout: 300ms, with: {message: m, choices: {a: A, b: B}}}
      - {id: yes_or_no, action: manual.approve, timeout: 300ms, with: {message: m}}
      - {id: list, action: manual.checklist, timeout: 300ms, with: {sections: {s: [one]}}}
""",
        ask=nobody,
    )
    assert played.steps == {
        "p/pick": "succeeded", "p/open": "timed_out", "p/yes_or_no": "timed_out", "p/list": "timed_out", "p": "succeeded",
    }  # fmt: skip
    assert played.values("p/pick")["choice"] == "b"


def test_the_time_of_a_question_goes_on_while_nobody_runs_the_run(room: Room) -> None:
    text = "steps: [{id: pick, action: manual.choose, timeout: 200ms, with: {message: m, choices: {a: A, b: B}, default: b}}]"
    assert room.played(text).exit == Exit.WAITING
    time.sleep(0.3)
    resumed = room.resumed()
    assert (resumed.exit, resumed.values("pick")["choice"]) == (Exit.SUCCEEDED, "b")


def test_the_box_stands_still_only_while_every_open_leaf_waits_for_a_person(room: Room) -> None:
    """The run has 0.5 s. A person takes 0.8 s: alone that is nothing; beside work that goes on it is."""

    def slow(question: Question) -> Answer:
        time.sleep(0.8)
        return Answer("approve", "bob", time.time())

    alone = room.played(f"timeout: 500ms\nsteps: [{ASK}, {note('after')}]", ask=slow)
    assert (alone.exit, list(alone.done)) == (Exit.SUCCEEDED, ["after"])
    beside = room.played(
        f"timeout: 500ms\nsteps: [{{id: p, parallel: [{ASK}, {{id: w, action: flow.wait, with: {{for: 60s}}}}]}}]",
        ask=slow,
    )
    assert (beside.exit, beside.steps["p/w"]) == (Exit.FAILED, "timed_out")


def test_objectives_never_stand_still(room: Room) -> None:
    def slow(question: Question) -> Answer:
        time.sleep(0.5)
        return Answer("approve", "bob", time.time())

    played = room.played(
        f"objectives: {{m: 300ms}}\nsteps: [{ASK}, {{id: a, action: toy.get, milestone: m}}]", ask=slow
    )
    assert [one["verdict"] for one in played.of("run.ended", "")["objectives"]] == ["missed"]


def test_without_a_terminal_the_run_waits_when_nothing_else_can_run_with_its_locks_parked(room: Room) -> None:
    played = room.played(f"""
locks: [l]
steps:
  - {{id: p, parallel: [{ASK}, {note("beside", ", seconds: 0.2")}]}}
  - {note("after")}
""")
    assert (played.exit, list(played.done)) == (Exit.WAITING, ["beside"])
    second = room.played(f"locks: [l]\nsteps: [{note('other')}]")
    assert second.exit == Exit.REFUSED
    assert "waits for a person" in second.error()


INTERACTIVE: dict[str, tuple[Exit, list[str]]] = {
    "retry": (Exit.SUCCEEDED, ["x=new", "flaky", "after"]),
    "continue": (Exit.SUCCEEDED, ["x=new", "after"]),
    "undo": (Exit.FAILED, ["x=new", "x=None"]),
    "abort": (Exit.FAILED, ["x=new"]),
}


@pytest.mark.parametrize("choice", INTERACTIVE)
def test_interactive_asks_at_a_failure(choice: str, room: Room) -> None:
    exit_, done = INTERACTIVE[choice]

    def ask(question: Question) -> Answer:
        (room.world / "ready").touch()
        return Answer(choice, "bob", time.time())

    flaky = '{id: flaky, action: shell.run, undo: none, with: {command: "test -e $WORLD/ready && echo done flaky >> $WORLD/log"}}'
    played = room.played(f"steps: [{SET}, {flaky}, {note('after')}]", ask=ask, interactive=True)
    assert (played.exit, list(played.done)) == (exit_, done)


# --- notifications


def test_a_notification_never_blocks_and_its_failure_is_a_warning(room: Room) -> None:
    played = room.played(f"""
steps:
  - {{id: news, action: toy.tell, with: {{name: news, seconds: 9}}, timeout: 300ms, retry: {{max_attempts: 1}}}}
  - {{id: status, action: flow.set, with: {{values: {{x: 1}}}}}}
  - {note("work")}
""")
    assert (played.exit, set(played.done)) == (Exit.SUCCEEDED, {"tell news", "work"})
    assert list(played.steps) == ["status", "work", "news"]
    assert "not delivered" in played.warnings["news"]


def test_one_ordered_lane_per_family(room: Room) -> None:
    played = room.played(f"""
steps:
  - {{id: one, action: toy.tell, with: {{name: one, seconds: 0.3}}}}
  - {{id: two, action: toy.tell, with: {{name: two}}}}
  - {note("work")}
""")
    order = [line for line in played.done if line.startswith("tell")]
    assert order == ["tell one", "tell two"]
    assert list(played.steps) == ["work", "one", "two"]


class Page(Notify[Args]):
    """What pages people never queues behind another."""

    name = "toy.page"
    lane = "pager"

    def run(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"tell {args.name}")
        return {}


def test_what_pages_people_never_queues_behind_another(tmp_path: Path) -> None:
    room = Room.at(tmp_path, Page)
    played = room.played("""
steps:
  - {id: news, action: toy.tell, with: {name: news, seconds: 0.4}}
  - {id: page, action: toy.page, with: {name: page}}
""")
    assert list(played.steps) == ["page", "news"]


def test_a_notification_has_two_attempts_of_ten_seconds_unless_it_says_otherwise(room: Room) -> None:
    loaded = room.load(
        "runbook: 1\nname: p\nsteps: [{id: a, action: toy.tell}, {id: b, action: toy.tell, timeout: 1s, retry: {max_attempts: 5}}]"
    )
    assert loaded.playbook is not None
    first, second = loaded.playbook.steps
    assert (getattr(first, "attempt", 0), getattr(second, "attempt", 0)) == (10.0, 1.0)
    played = room.played("steps: [{id: a, action: toy.tell, with: {seconds: 9}, timeout: 100ms}]")
    assert played.step("a")["attempts"] == 2


def test_it_is_not_cancelled_with_its_block(room: Room) -> None:
    played = room.played(
        "steps: [{id: b, steps: [{id: news, action: toy.tell, with: {name: news, seconds: 0.4}}, {id: w, action: flow.wait, with: {for: 60s}}]}]",
        cancels={"b/w": 0.1},
    )
    assert (played.exit, played.steps["b/news"]) == (Exit.CANCELLED, "succeeded")


def test_pending_until_told_and_the_first_template_that_names_it_waits(room: Room) -> None:
    played = room.played("""
steps:
  - {id: news, action: toy.tell, with: {name: news, seconds: 0.3}}
  - {id: first, action: toy.note, with: {name: first}}
  - {id: use, action: flow.set, with: {values: {s: "{{ steps.news.status }}"}}}
""")
    assert list(played.steps) == ["first", "news", "use"]
    assert played.values("use")["s"] == "succeeded"


def test_undefined_values_in_its_texts_are_unknown(room: Room) -> None:
    played = room.played("""
steps:
  - {id: x, when: "false", action: toy.get}
  - {id: news, action: toy.tell, with: {name: "slot {{ steps.x.outputs.value }}"}}
""")
    assert list(played.done) == ["tell slot <unknown: steps.x.outputs.value>"]
    assert played.exit == Exit.SUCCEEDED


@pytest.mark.timed
def test_what_is_not_told_in_time_is_listed_and_changes_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 20 seconds after the root's finally are shortened here; that they are 20 is a test of the engine."""
    monkeypatch.setattr("runbook.interpreter.lane.PATIENCE", 0.4)
    began = time.monotonic()
    played = room.played(
        f"steps: [{{id: slow, action: toy.tell, timeout: 60s, with: {{name: slow, seconds: 50}}}}]\nfinally: {{steps: [{note('last')}]}}"
    )
    assert (played.exit, [event.key for event in played.all("lane.left")]) == (Exit.SUCCEEDED, ["slow"])
    assert time.monotonic() - began < 5


# --- sub-playbooks

SUB = """runbook: 1
name: sub
inputs: {n: {type: integer}, fail: {type: boolean, default: false}}
steps:
  - {id: set, action: toy.set, with: {name: x, value: "{{ inputs.n }}"}, milestone: done}
  - {id: bad, when: inputs.fail, action: toy.note, undo: none, with: {fail: broken}}
  - {id: late, action: toy.get, with: {value: 7}}
outputs: {n: "{{ inputs.n + 1 }}", parent: "{{ run.parent }}", late: "{{ steps.late.outputs.value }}"}
"""


def test_inputs_in_outputs_out_and_milestones_under_the_steps_id(room: Room) -> None:
    played = room.played("steps: [{id: s, playbook: sub.yaml, with: {n: 1}}]", files={"sub.yaml": SUB})
    assert played.values("s") == {"n": 2, "parent": "p", "late": 7}
    assert played.milestones == ["s.done"]


def test_outputs_come_out_after_a_failure_too_and_what_cannot_be_computed_is_null(room: Room) -> None:
    played = room.played(
        'steps: [{id: s, playbook: sub.yaml, with: {n: 1, fail: true}, on_failure: continue}, {id: v, action: flow.set, with: {values: {n: "{{ steps.s.outputs }}"}}}]',
        files={"sub.yaml": SUB},
    )
    assert played.values("v")["n"] == {"n": 2, "parent": "p", "late": None}


def test_its_changes_belong_to_the_callers_undo(room: Room) -> None:
    room.put("x", "old")
    played = room.played(
        "steps: [{id: b, on_failure: undo, steps: [{id: s, playbook: sub.yaml, with: {n: 1}}, {id: f, action: toy.get, fail_when: 'true'}]}]",
        files={"sub.yaml": SUB},
    )
    assert list(played.done) == ["x=1", "x=old"]


def test_it_inherits_nothing(room: Room) -> None:
    text = "runbook: 1\nname: p\nvars: {outer: 1}\nsteps: [{id: s, playbook: sub.yaml}]\n"
    files = {
        "p.yaml": text,
        "sub.yaml": 'runbook: 1\nsteps: [{id: a, action: toy.get, with: {value: "{{ vars.outer }}"}}]\n',
    }
    said = [problem.message for problem in load("p.yaml", lambda name: files[name], room.registry.catalogue()).problems]
    assert any("outer" in one for one in said)


def test_recursion_is_an_error_with_the_cycle_shown(room: Room) -> None:
    files = {
        "p.yaml": "runbook: 1\nsteps: [{id: a, playbook: b.yaml}]\n",
        "b.yaml": "runbook: 1\nsteps: [{id: a, playbook: c.yaml}]\n",
        "c.yaml": "runbook: 1\nsteps: [{id: a, playbook: b.yaml}]\n",
    }
    said = [
        f"{one.message} {one.hint}"
        for one in load("p.yaml", lambda name: files[name], room.registry.catalogue()).problems
    ]
    assert any("b.yaml" in one and "c.yaml" in one for one in said), said


def test_a_secret_passes_as_coordinates(tmp_path: Path) -> None:
    room = Room.at(tmp_path, TOKEN="hunter2-hunter2")
    played = room.played(
        'secrets: {token: {env: TOKEN}}\nsteps: [{id: s, playbook: sub.yaml, with: {key: "{{ secrets.token }}"}}]',
        files={
            "sub.yaml": 'runbook: 1\ninputs: {key: {type: string, secret: true}}\nsteps: [{id: a, action: shell.run, effect: read, with: {command: "printf %s \\"$KEY\\" | wc -c", env: {KEY: "{{ inputs.key }}"}}}]\n'
        },
    )
    assert played.exit == Exit.SUCCEEDED, played.error()
    assert int(played.values("s/a")["stdout"]) == len("hunter2-hunter2")
    assert "hunter2" not in repr(played.events)


# name: the caller's step and root, cancels, what the sub-playbook's handler sees
ENDED = {
    "its own time-out": ("steps: [{id: s, playbook: sub.yaml}]", {}, "timed_out"),
    "the caller's deadline": ("steps: [{id: s, playbook: sub.yaml, timeout: 200ms}]", {}, "timed_out"),
    "the root's deadline": ("timeout: 200ms\nsteps: [{id: s, playbook: sub.yaml}]", {}, "timed_out"),
    "a cancel": ("steps: [{id: s, playbook: sub.yaml}]", {"s/w": 0.1}, "cancelled"),
}


@pytest.mark.parametrize("name", ENDED)
def test_how_it_is_ended_is_what_it_sees(name: str, room: Room) -> None:
    text, cancels, kind = ENDED[name]
    sub = 'runbook: 1\ntimeout: 600ms\nsteps: [{id: w, action: flow.wait, with: {for: 60s}}]\nfinally: {steps: [{id: seen, action: toy.note, with: {name: "{{ failure.kind }}"}}]}\n'
    played = room.played(text, files={"sub.yaml": sub}, cancels=cancels)
    assert list(played.done) == [kind]
    assert played.exit == (Exit.CANCELLED if kind == "cancelled" else Exit.FAILED)


# --- locks


def test_locks_are_re_entrant_along_the_path_of_a_run_tree(room: Room) -> None:
    played = room.played(
        f"locks: [l]\nsteps: [{{id: b, locks: [l], steps: [{{id: s, playbook: sub.yaml}}, {note('after')}]}}]",
        files={"sub.yaml": f"runbook: 1\nlocks: [l]\nsteps: [{{id: a, locks: [l], steps: [{note('inner')}]}}]\n"},
    )
    assert (played.exit, list(played.done)) == (Exit.SUCCEEDED, ["inner", "after"])


def test_known_names_of_the_whole_tree_are_taken_at_the_start_in_sorted_order(room: Room) -> None:
    played = room.played(
        f"inputs: {{env: {{type: string, default: prod}}}}\nlocks: ['z/{{{{ inputs.env }}}}']\nsteps: [{{id: b, locks: [m], steps: [{note('a')}]}}, {{id: s, playbook: sub.yaml}}]",
        files={"sub.yaml": f"runbook: 1\nlocks: [c]\nsteps: [{note('inner')}]\n"},
    )
    first = played.all("locked")[0].data
    assert first["names"] == ["c", "m", "z/prod"]
    tokens = [first["tokens"][name] for name in first["names"]]
    assert tokens == sorted(tokens)


# a step that wants a lock whose name only an earlier step gives, and how it ends when somebody holds it
LATER = {
    "an action": "{id: a, timeout: 400ms, locks: ['late-{{ steps.v.outputs.value }}'], action: toy.note, with: {name: never}}",
    "a block": f"{{id: a, timeout: 400ms, locks: ['late-{{{{ steps.v.outputs.value }}}}'], steps: [{note('never')}]}}",
}


@pytest.mark.timed
@pytest.mark.parametrize("kind", LATER)
def test_a_later_lock_is_waited_for_up_to_the_steps_timeout(kind: str, room: Room) -> None:
    other = Locks(room.store.locks, "somebody", room.folder)
    room.store.prepare()
    assert other.take(["late-1"]) is None
    began = time.monotonic()
    played = room.played(f"steps: [{{id: v, action: toy.get, with: {{value: 1}}}}, {LATER[kind]}]")
    assert (played.steps["a"], played.exit, list(played.done)) == ("timed_out", Exit.FAILED, [])
    assert "late-1" in played.error("a")
    assert time.monotonic() - began < 4


def test_a_later_lock_that_becomes_free_is_taken(room: Room) -> None:
    taken = threading.Event()

    def somebody() -> None:
        other = Locks(room.store.locks, "somebody", room.folder)
        assert other.take(["late-1"]) is None
        taken.set()
        time.sleep(0.5)
        other.release(["late-1"])

    room.store.prepare()
    holder = threading.Thread(target=somebody)
    holder.start()
    assert taken.wait(10)
    step = LATER["an action"].replace("400ms", "20s")
    played = room.played(f"steps: [{{id: v, action: toy.get, with: {{value: 1}}}}, {step}]")
    holder.join(10)
    assert (played.exit, list(played.done)) == (Exit.SUCCEEDED, ["never"])
