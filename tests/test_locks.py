"""Locks: between runs, between steps of a run, over a crash, and when a process did not run for too long."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.interpreter.errors import Exit, RefusedError
from runbook.runner import locks, processes, session, step_logs
from runbook.runner.journal import Event
from runbook.runner.lock_waits import is_below
from runbook.runner.locks import LockLostError, Locks, holders
from runbook.runner.surroundings import Real
from tests.runner_toys import Lab, steps


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.at(tmp_path)


def store(folder: Path, run: str) -> Locks:
    return Locks(folder / "locks.db", run, folder / run)


def test_a_lock_is_one_runs_and_its_token_grows(tmp_path: Path) -> None:
    first, second = store(tmp_path, "one"), store(tmp_path, "two")
    assert first.take(["b", "a"]) is None
    assert first.tokens == {"a": 1, "b": 1}
    held = second.take(["a"])
    assert held is not None
    assert "lock a is held by run one" in str(held)
    assert first.take(["a"]) is None
    assert first.tokens["a"] == 1  # ours already
    first.release(["a"])
    assert second.take(["a"]) is None
    assert second.tokens == {"a": 2}
    assert [(lock.name, lock.run) for lock in holders(tmp_path / "locks.db")] == [("a", "two"), ("b", "one")]


def test_locks_are_taken_in_sorted_order_as_far_as_they_are_free(tmp_path: Path) -> None:
    first, second = store(tmp_path, "one"), store(tmp_path, "two")
    first.take(["m"])
    held = second.take(["z", "a", "m"])
    assert held is not None
    assert held.name == "m"
    assert set(second.tokens) == {"a"}


def test_a_lock_without_a_sign_of_life_expires_and_who_lost_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = store(tmp_path, "slow"), store(tmp_path, "fast")
    slow.take(["a"])
    real = processes.clock
    monkeypatch.setattr(processes, "clock", lambda: real() + locks.TTL - 1)
    slow.renew()
    monkeypatch.setattr(processes, "clock", lambda: real() + locks.TTL + 5)
    assert fast.take(["a"]) is not None  # renewed
    monkeypatch.setattr(processes, "clock", lambda: real() + 2 * locks.TTL + 5)
    assert fast.take(["a"]) is None
    with pytest.raises(LockLostError):
        slow.renew()
    slow.release(["a"])
    assert [lock.run for lock in holders(tmp_path / "locks.db")] == ["fast"]


def test_a_jumping_wall_clock_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path, "one").take(["a"])
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert store(tmp_path, "two").take(["a"]) is not None


def test_parked_locks_do_not_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store(tmp_path, "one")
    first.take(["a"])
    first.park()
    real = processes.clock
    monkeypatch.setattr(processes, "clock", lambda: real() + 1e6)
    held = store(tmp_path, "two").take(["a"])
    assert held is not None
    assert "waits for a person" in str(held)


def test_a_resumed_run_knows_whether_somebody_held_its_lock_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store(tmp_path, "one")
    before.take(["a", "b"])
    assert store(tmp_path, "one").retake({"a": 1, "b": 1}) == []
    real = processes.clock
    monkeypatch.setattr(processes, "clock", lambda: real() + locks.TTL + 1)
    other = store(tmp_path, "two")
    other.take(["b"])
    other.release(["b"])
    assert store(tmp_path, "one").retake({"a": 1, "b": 1}) == ["b"]


RACER = """
import sys, time
from pathlib import Path
from runbook.runner.locks import Locks
folder = Path(sys.argv[1])
for n in range(20):
    mine = Locks(folder / "locks.db", f"{sys.argv[2]}-{n}", folder)
    while mine.take(["a"]) is not None:
        time.sleep(0.001)
    inside = folder / "inside"
    inside.mkdir()  # fails if anybody else is inside
    print(mine.tokens["a"])
    inside.rmdir()
    mine.release(["a"])
"""


def test_eight_processes_exclude_each_other_and_no_token_is_given_twice(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    tokens = [int(line) for racer in racers for line in racer.communicate(timeout=100)[0].split()]
    assert [racer.returncode for racer in racers] == [0] * 8
    assert sorted(tokens) == list(range(1, 161))


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["x", "y"]), max_size=3),
)
def test_what_stands_in_a_step_is_below_it_and_a_sibling_is_not(path: list[str], more: list[str]) -> None:
    outer = "/".join(path)
    inner = "/".join([*path, *more])
    assert is_below(inner, outer)
    assert is_below(f"{inner}#1", f"{outer}@locks")
    assert is_below(inner, "@run")
    assert not is_below(f"{outer}z", outer)
    if more:
        assert not is_below(outer, inner)


# -- as playbooks use them

NAP = "{id: %s, action: toy.note, with: {name: %s, seconds: 0.15}, locks: [l]}"


def test_siblings_of_one_run_wait_for_each_other_and_inner_steps_do_not(lab: Lab) -> None:
    ended = lab.run(f"""
runbook: 1
name: p
steps:
  - id: both
    parallel:
      - {NAP % ("a", "a")}
      - id: b
        locks: [l]
        steps:
          - {NAP % ("c", "c")}
          - {NAP % ("d", "d")}
""")
    assert ended.exit == Exit.SUCCEEDED
    lines = lab.log()
    assert [line for line in lines if line.startswith("start")] == [
        line.replace("done", "start") for line in lines if line.startswith("done")
    ]
    assert [n for n in range(0, 6, 2) if lines[n + 1] != lines[n].replace("start", "done")] == []
    assert holders(lab.store.locks) == []


def test_the_second_run_says_who_holds_the_lock_and_waits_when_it_is_told_to(lab: Lab) -> None:
    text = "runbook: 1\nname: p\nlocks: [l]\nsteps:\n  - {id: a, action: toy.note, with: {name: a, seconds: 0.8}}\n"
    refused: list[session.Ended] = []
    waited: list[session.Ended] = []
    others = [
        threading.Thread(target=lambda: refused.append(lab.run(text))),
        threading.Thread(target=lambda: waited.append(lab.run(text, options=session.Options(wait_lock=True)))),
    ]

    def begin(event: Event) -> None:
        if event.kind == "call.intent":
            for other in others:
                other.start()

    first = lab.run(text, listeners=[begin])
    for other in others:
        other.join(20)
    assert (first.exit, refused[0].exit, waited[0].exit) == (Exit.SUCCEEDED, Exit.REFUSED, Exit.SUCCEEDED)
    error = refused[0].outcome.error if refused[0].outcome is not None else None
    assert error is not None
    assert f"held by run {first.run_id}" in error.message
    assert lab.log() == ["start a", "done a", "start a", "done a"]
    told = lab.store.find(waited[0].run_id).logs / step_logs.NAME
    said = [line for line in told.read_text().splitlines() if "waiting: " in line]
    assert len(said) == 1, "it looks several times a second, and says what it waits for once"


def test_a_rehearsal_holds_up_nobody(lab: Lab) -> None:
    class Simulated(Real):
        simulated = True

    text = "runbook: 1\nname: p\nlocks: [l]\nsteps: [{id: ask, action: manual.approve, with: {message: m}}]"
    rehearsal = session.World(store=lab.store, surroundings=Simulated(lab.environ), registry=lab.registry)
    assert session.start(lab.load(text), {}, world=rehearsal).exit == Exit.WAITING
    assert lab.run(text).exit == Exit.WAITING


def test_preempt_cancels_the_holder_and_waits_for_its_clean_up(lab: Lab) -> None:
    slow = """
runbook: 1
name: slow
locks: [l]
steps:
  - {id: a, action: toy.set, with: {name: x, value: new}}
  - {id: w, action: toy.polite, with: {}, undo: none}
on_failure: {undo: true}
finally: {steps: [{id: z, action: toy.note, with: {name: cleaned, seconds: 0.3}}]}
"""
    fast = "runbook: 1\nname: fast\nlocks: [l]\nsteps:\n  - {id: a, action: toy.note, with: {name: fast}}\n"
    won: list[session.Ended] = []
    other = threading.Thread(target=lambda: won.append(lab.run(fast, options=session.Options(preempt=True))))

    def begin(event: Event) -> None:
        if event.kind == "call.intent" and event.key == "w#1":
            other.start()

    first = lab.run(slow, listeners=[begin])
    other.join(20)
    assert (first.exit, won[0].exit) == (Exit.CANCELLED, Exit.SUCCEEDED)
    assert lab.log()[-4:] == ["start cleaned", "done cleaned", "start fast", "done fast"]
    assert lab.value("x") is None


def test_preempt_ends_a_run_that_waits_for_a_person_and_plays_its_clean_up(lab: Lab) -> None:
    parked = """
runbook: 1
name: parked
locks: [l]
steps:
  - {id: a, action: toy.set, with: {name: x, value: new}}
  - {id: w, action: manual.approve, with: {message: m}}
on_failure: {undo: true}
finally: {steps: [{id: z, action: toy.note, with: {name: cleaned, seconds: 0.3}}]}
"""
    fast = "runbook: 1\nname: fast\nlocks: [l]\nsteps:\n  - {id: a, action: toy.note, with: {name: fast}}\n"
    first = lab.run(parked)
    assert (first.exit, lab.value("x")) == (Exit.WAITING, "new")
    refused = lab.run(fast)
    assert refused.exit == Exit.REFUSED
    assert refused.outcome is not None
    assert refused.outcome.error is not None
    assert "--preempt" in str(refused.outcome.error.hint)
    assert lab.run(fast, options=session.Options(preempt=True)).exit == Exit.SUCCEEDED
    assert lab.log()[-4:] == ["start cleaned", "done cleaned", "start fast", "done fast"]
    assert lab.value("x") is None
    ended = next(event for event in lab.events(first) if event.kind == "run.ended")
    assert ended.data["exit"] == Exit.CANCELLED
    (stop,) = [event.data["why"] for event in lab.events(first) if event.kind == "stop"]
    assert "--preempt" in stop


def test_preempt_of_a_run_whose_clean_up_asks_a_person_says_so(lab: Lab) -> None:
    asks = "{action: manual.approve, with: {message: m}}"
    parked = f"""
runbook: 1
name: parked
locks: [l]
steps: [{{id: w, {asks[1:]}]
finally: {{steps: [{{id: z, {asks[1:]}]}}
"""
    fast = "runbook: 1\nname: fast\nlocks: [l]\nsteps:\n  - {id: a, action: toy.note, with: {name: fast}}\n"
    assert lab.run(parked).exit == Exit.WAITING
    ended = lab.run(fast, options=session.Options(preempt=True))
    assert ended.exit == Exit.REFUSED
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert "its clean-up asks a person" in ended.outcome.error.message
    assert lab.log() == []


def test_a_later_lock_is_waited_for_up_to_the_steps_timeout(lab: Lab) -> None:
    other = Locks(lab.store.locks, "somebody", lab.folder)
    lab.store.prepare()
    assert other.take(["late-1"]) is None
    ended = lab.run("""
runbook: 1
name: p
steps:
  - {id: v, action: toy.get, with: {value: 1}}
  - {id: a, timeout: 400ms, locks: ["late-{{ steps.v.outputs.value }}"], steps: [{id: n, action: toy.note, with: {}}]}
""")
    assert ended.exit == Exit.FAILED
    assert steps(lab.events(ended))["a"] == "timed_out"
    assert lab.log() == ["get "]


def test_a_run_whose_lock_somebody_held_meanwhile_offers_only_clean_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
runbook: 1
name: p
locks: [l]
steps:
  - {id: a, action: toy.set, with: {name: x, value: new}}
  - {id: ask, action: manual.approve, with: {message: m}}
  - {id: b, action: toy.set, with: {name: y, value: new}}
on_failure: {undo: true}
"""
    ended = lab.run(text)
    assert ended.exit == Exit.WAITING
    other = Locks(lab.store.locks, "somebody", lab.folder)
    monkeypatch.setattr("runbook.runner.locks.Holder.left", lambda self: 0.0)  # an administrator freed it
    assert other.take(["l"]) is None
    other.release(["l"])
    monkeypatch.undo()
    with pytest.raises(RefusedError, match="another run held lock l"):
        lab.resume()
    cleaned = lab.resume(cleanup_only=True)
    assert cleaned.exit == Exit.CANCELLED
    assert (lab.value("x"), lab.value("y")) == (None, None)
    assert holders(lab.store.locks) == []
