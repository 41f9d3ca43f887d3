"""Locks on Leases, as a law: whatever clocks, sleep, kills and lost answers do, two are never sure of one lock.

The API is SIMULATED here: conditional writes in memory. tests/test_lease_locks.py has the real one.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter.errors import Exit
from runbook.runner import lock_place, lock_waits, processes, session
from runbook.runner.lease_api import Leases
from runbook.runner.lease_locks import LeaseLocks
from runbook.runner.lease_record import holder_of, lease_name
from runbook.runner.locks import LockError, LockLostError, UnreachableError
from tests.runner_toys import Lab, steps

SECONDS = 10
T = TypeVar("T")


@dataclass
class Simulated:
    """SIMULATED: Leases in memory, written as the API server does it. `faults`: what becomes of the next requests."""

    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 0
    faults: list[str] = field(default_factory=list)
    """'', 'lost' (the request does not come through), 'unheard' (its answer does not), 'slow' (its answer is), 'bug'.
    """
    wait: Callable[[float], None] = lambda seconds: None

    def get(self, name: str) -> dict[str, Any] | None:
        return self._made(lambda: copy.deepcopy(self.leases.get(name)))

    def forbidden(self) -> list[str]:
        return []

    def all(self) -> list[dict[str, Any]]:
        return self._made(lambda: copy.deepcopy(list(self.leases.values())))

    def create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        name = lease["metadata"]["name"]
        return self._made(lambda: None if name in self.leases else self._written(lease, f"uid-{self.version}"))

    def replace(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        def write() -> dict[str, Any] | None:
            found = self.leases.get(lease["metadata"]["name"])
            if found is None or found["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
                return None
            return self._written(lease, found["metadata"]["uid"])

        return self._made(write)

    def close(self) -> None:
        pass

    def _written(self, lease: Mapping[str, Any], uid: str) -> dict[str, Any]:
        self.version += 1
        made = copy.deepcopy(dict(lease))
        made["metadata"] |= {"resourceVersion": str(self.version), "uid": uid}
        self.leases[made["metadata"]["name"]] = made
        return copy.deepcopy(made)

    def _made(self, request: Callable[[], T]) -> T:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "bug":
            raise ValueError("out of range")
        if fault == "lost":
            raise TemporaryError("no connection")
        answer = request()
        if fault == "unheard":
            raise TemporaryError("the connection was cut")
        if fault == "slow":
            self.wait(6.0)
        return answer


class Actors:
    """Three runs on three machines, whose clocks begin anywhere and do not run alike."""

    def __init__(self, rates: tuple[float, ...]) -> None:
        self.api = Simulated(wait=self.wait)
        self.now = 0.0
        self.rates = rates
        self.stores = [self._store(number) for number in range(3)]
        self.known: list[dict[str, int]] = [{}, {}, {}]  # what each one's journal has
        self.given: list[int] = []

    def _store(self, number: int) -> LeaseLocks:
        return LeaseLocks(Leases(lambda: self.api, "here"), f"run-{number}", f"owner-{number}", seconds=SECONDS)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def clock(self, number: int) -> float:
        return 1000.0 * number + self.now * self.rates[number]

    def act(self, number: int, what: str) -> None:
        store = self.stores[number]
        with patch.object(processes, "clock", lambda: self.clock(number)):
            try:
                if what == "take":
                    store.take(["l"])
                elif what == "renew":
                    store.renew()
                elif what == "release":
                    store.release(["l"])
                elif what == "assure":
                    assert (store.assure() is None) == store.sure()
                else:  # killed, and resumed
                    store = self.stores[number] = self._store(number)
                    if self.known[number]:
                        store.retake(self.known[number])
            except (LockError, LockLostError):
                pass
        token = store.tokens.get("l")
        if token is not None and token != self.known[number].get("l"):
            assert all(token > earlier for earlier in self.given), "every owner's number is greater than all before"
            self.given.append(token)
        self.known[number] = dict(store.tokens)

    def sure(self) -> Iterator[int]:
        for number, store in enumerate(self.stores):
            with patch.object(processes, "clock", lambda number=number: self.clock(number)):
                if store.tokens and store.sure():
                    yield number


STEP = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["take", "take", "take", "renew", "release", "assure", "resume"]),
    st.sampled_from([0.0, 0.0, 0.5, 3.0, 7.0, 10.0]),  # seconds that pass before it
    st.sampled_from([(), (), (), ("lost",), ("unheard",), ("slow",), ("", "lost"), ("", "unheard"), ("", "slow")]),
)


@settings(max_examples=300)
@given(st.tuples(*[st.sampled_from([0.95, 1.0, 1.05])] * 3), st.lists(STEP, min_size=25, max_size=50))
def test_two_are_never_sure_of_one_lock(rates: tuple[float, ...], course: list[Any]) -> None:
    actors = Actors(rates)
    for number, what, passed, faults in course:
        actors.now += passed
        actors.api.faults = list(faults)
        actors.act(number, what)
        assert len(list(actors.sure())) <= 1, f"after {what} of {number}"


def pair() -> tuple[Simulated, LeaseLocks, LeaseLocks]:
    api = Simulated()
    first, second = (LeaseLocks(Leases(lambda: api, "here"), run, run, seconds=SECONDS) for run in ("one", "two"))
    return api, first, second


def at(seconds: float) -> Any:
    return patch.object(processes, "clock", lambda: seconds)


def test_a_lease_is_taken_over_after_it_was_watched_for_its_time_and_no_sooner() -> None:
    _, first, second = pair()
    with at(0.0):
        assert first.take(["l"]) is None
    with at(1e6):  # whatever this machine's clock says: it has not watched yet
        assert second.take(["l"]) is not None
    with at(5.0):
        first.renew()
    with at(1e6 + SECONDS):
        assert second.take(["l"]) is not None, "it was renewed meanwhile"
    with at(1e6 + 2 * SECONDS - 0.1):
        assert second.take(["l"]) is not None
    with at(1e6 + 2 * SECONDS):
        assert second.take(["l"]) is None
    assert (first.tokens, second.tokens) == ({"l": 1}, {"l": 2})
    with at(14.0), pytest.raises(LockLostError, match="stopped here, nothing more was done"):
        first.beat(acting=True)
    with at(14.0):
        assert "lost to run two" in str(first.assure())


def test_an_owner_counts_from_when_it_asked_not_from_when_it_was_answered() -> None:
    api, first, second = pair()
    now = [0.0]

    def wait(seconds: float) -> None:
        assert second.take(["l"]) is not None  # it watches from now on, and no answer has come yet
        now[0] += seconds

    api.wait, api.faults = wait, ["", "slow"]
    with patch.object(processes, "clock", lambda: now[0]):
        assert first.take(["l"]) is None
        now[0] = SECONDS
        assert not first.sure()
        assert second.take(["l"]) is None


def test_wall_clocks_are_never_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = pair()
    with at(0.0):
        first.take(["l"])
        monkeypatch.setattr("time.time", lambda: 4e9)
        assert second.take(["l"]) is not None
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert second.take(["l"]) is not None
    with at(SECONDS - 3.0):
        first.renew()
        assert first.sure()


def test_who_was_asked_to_give_way_hears_it_once_and_keeps_the_lock_until_it_gives_it_back() -> None:
    _, first, second = pair()
    with at(0.0):
        first.take(["l"])
        held = second.take(["l"])
        assert held is not None
        second.demand(held)
        first.renew()
        assert "run two" in str(first.demanded())
        assert first.demanded() is None
        still = second.take(["l"])
        assert still is not None
        assert "run two" in str(still)
        assert "asked it to give way" in str(still)
        first.release(["l"])
        assert second.take(["l"]) is None


def test_a_deleted_lease_is_a_lost_lock() -> None:
    api, first, second = pair()
    with at(0.0):
        first.take(["l"])
        api.leases.clear()
        assert second.take(["l"]) is None
        first.renew()
        assert not first.sure()
        assert "lost to run two" in str(first.assure())
        assert first.retake({"l": 1}) == ["l"], "the new Lease has the same number, and another owner"


def test_a_run_that_was_killed_in_the_middle_of_its_resume_still_gets_its_lock_back() -> None:
    api, first, second = pair()
    with at(0.0):
        first.take(["l"])
        for _ in range(2):  # the second time, the journal still has the first number
            again = LeaseLocks(Leases(lambda: api, "here"), "one", "one", seconds=SECONDS)
            assert again.retake({"l": 1}) == []
        assert again.tokens == {"l": 3}
        again.release(["l"])
        assert second.take(["l"]) is None
        second.release(["l"])
        assert again.retake({"l": 3}) == ["l"]
        assert again.take(["l"]) is None  # for its clean-up, and killed before its journal has the number
        assert again.retake({"l": 3}) == ["l"], "somebody held it meanwhile, and that is not forgotten"


def test_what_the_api_server_forbids_or_does_not_answer_is_told_apart() -> None:
    def refuse() -> Simulated:
        raise PermanentError("no right to get leases", hint="bind a Role")

    forbidden = LeaseLocks(Leases(refuse, "k8s:prod/ops"), "one", "one")
    with pytest.raises(LockError, match=r"cannot be used \(k8s:prod/ops\): no right") as told:
        forbidden.take(["l"])
    assert told.value.hint == "bind a Role"
    assert not isinstance(told.value, UnreachableError)
    api, first, _ = pair()
    api.faults = ["lost"]
    with pytest.raises(UnreachableError, match="cannot be reached"):
        first.take(["l"])


def beat(store: LeaseLocks, seconds: float) -> None:
    """A beat at that time, and the end of what it started."""
    with at(seconds):
        store.beat(acting=False)
        for thread in threading.enumerate():
            if thread.name == "lease":
                thread.join(30)
                assert not thread.is_alive()


def test_a_renewal_that_meets_a_bug_is_no_silence_and_the_next_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hears an exception of its thread, but whoever stops for want of the lock."""
    fallen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", fallen.append)
    with at(0.0):
        api, first, _ = pair()
        assert first.take(["l"]) is None
    api.faults = ["bug"]
    beat(first, 3.0)
    assert not fallen
    with at(8.5), pytest.raises(LockLostError, match=r"\(the renewal failed: ValueError: out of range\)"):
        first.beat(acting=True)
    beat(first, 8.6)
    with at(9.0):
        assert first.sure()


def test_a_renewal_for_which_there_is_no_thread_is_made_by_a_later_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIMULATED: the system has no thread to give."""

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with at(0.0):
        _, first, _ = pair()
        assert first.take(["l"]) is None
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        beat(first, 3.0)
    with at(8.5), pytest.raises(LockLostError, match="can't start new thread"):
        first.beat(acting=True)
    beat(first, 8.6)
    with at(9.0):
        assert first.sure()


WHERE = session.Options(locks="k8s:prod/ops")
TEXT = "runbook: 1\nname: p\nlocks: [l]\nsteps:\n  - {id: a, action: toy.note, with: {name: a}}\n"


def test_one_request_that_is_lost_refuses_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, lab = Simulated(faults=["lost", "lost", "unheard"]), Lab.at(tmp_path)
    monkeypatch.setattr(lock_place, "_connect", lambda *_: api)
    ended = lab.run(TEXT, options=WHERE)
    assert ended.exit == Exit.SUCCEEDED
    assert lab.log() == ["start a", "done a"]
    assert [holder_of(lease) for lease in api.leases.values()] == [None]


class Far(Simulated):
    """SIMULATED: every answer takes a moment, in which the run goes on."""

    def _made(self, request: Callable[[], T]) -> T:
        time.sleep(0.01)
        return super()._made(request)


NAP = "{id: %s, action: toy.note, with: {name: %s, seconds: 0.1}, locks: [l]}"
SIBLINGS = f"""
runbook: 1
name: p
steps:
  - id: both
    parallel:
      - {NAP % ("a", "a")}
      - {NAP % ("b", "b")}
      - id: c
        locks: [l, m]
        steps: [{NAP % ("d", "d")}, {NAP % ("e", "e")}]
  - {NAP % ("f", "f")}
"""


def test_siblings_wait_for_each_other_and_inner_steps_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, lab = Far(), Lab.at(tmp_path)
    monkeypatch.setattr(lock_place, "_connect", lambda *_: api)
    monkeypatch.setattr(lock_waits, "POLL_FAR", 0.02)
    assert lab.run(SIBLINGS, options=WHERE).exit == Exit.SUCCEEDED
    lines = lab.log()
    assert [line.removeprefix("start ") for line in lines[::2]] == [line.removeprefix("done ") for line in lines[1::2]]
    assert len(lines) == 10
    assert [holder_of(lease) for lease in api.leases.values()] == [None, None]


def test_a_later_lock_is_waited_for_up_to_the_steps_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, lab = Far(), Lab.at(tmp_path)
    other = LeaseLocks(Leases(lambda: api, "here"), "other", "other")
    other.take(["late"])
    monkeypatch.setattr(lock_place, "_connect", lambda *_: api)
    monkeypatch.setattr(lock_waits, "POLL_FAR", 0.02)
    step = "{id: a, timeout: 300ms, locks: [early, late], steps: [{id: n, action: toy.note, with: {}}]}"
    text = f"runbook: 1\nname: p\nsteps:\n  - {{id: v, action: toy.get, with: {{value: 1}}}}\n  - {step}\n"
    ended = lab.run(text.replace("[early, late]", '["early-{{ steps.v.outputs.value }}", late]'), options=WHERE)
    assert ended.exit == Exit.REFUSED, "known names are taken at the start"
    late = text.replace(
        "[early, late]", '["early-{{ steps.v.outputs.value }}", "{{ \'late\' if steps.v.outputs.value }}"]'
    )
    ended = lab.run(late, options=WHERE)
    assert ended.exit == Exit.FAILED
    assert steps(lab.events(ended))["a"] == "timed_out"
    found = {name: holder_of(lease) for name, lease in api.leases.items()}
    assert [holder for name, holder in found.items() if "early" in name] == [None], "what it had got is given back"


def test_names_become_leases_that_the_api_takes() -> None:
    assert lease_name("rollback/production").startswith("runbook-rollback-production-")
    names = ["a/b", "a-b", "A/B", "ä", "", "x" * 300, "-", "a_b"]
    made = [lease_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(len(name) <= 63 and name == name.lower() and name.isascii() for name in made)


def test_a_lease_of_somebody_else_is_respected() -> None:
    """One that bears our name and was not made by us: no annotations, no duration."""
    api, first, _ = pair()
    spec = {"holderIdentity": "an operator", "leaseTransitions": 4}
    api.create({"metadata": {"name": lease_name("l")}, "spec": spec})
    with at(0.0):
        held = first.take(["l"])
    assert held is not None
    assert "an operator" in str(held)
    assert holder_of(api.leases[lease_name("l")]) == held
