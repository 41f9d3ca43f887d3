"""Locks as the engine asks for them: between runs by the store, inside the run by the path of the steps.

A step whose ancestor holds a name has it already; siblings of one run wait for each other as runs do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from runbook.interpreter.effects import Box, Fault, Record
from runbook.runner.lock_store import Holding, LockStore
from runbook.runner.locks import LockError, UnreachableError
from runbook.runner.quiet import Future
from runbook.runner.records import fault_to_wire

if TYPE_CHECKING:
    from runbook.runner.local import Local

T = TypeVar("T")

POLL = 0.25  # seconds between two looks at a lock that somebody else holds
POLL_FAR = 1.0  # the same, where each is a request over the network
REACH = 10.0  # seconds that a place which does not answer is tried again, also by a run that waits for nobody
PATIENCE = 3600.0  # seconds that a lock is waited for where no box ends the wait
_BELOW = frozenset("/#~!|&[@")


@dataclass(eq=False, slots=True)
class _Wait:
    key: str
    names: tuple[str, ...]
    box: Box
    future: Future[Record]
    patient: bool
    until: float  # in running seconds
    asked: bool = False  # the holder was asked to give way
    told: str = ""  # what it waits for, as was told last


class LockWaits:
    """The locks of one run: who of its steps holds what, and who waits."""

    def __init__(self, local: Local, store: LockStore) -> None:
        self._local = local
        self.store = store
        self._busy: set[str] = set()  # names that the store was asked about and has not answered yet
        self._holding: dict[str, list[str]] = {}  # name -> keys of the steps that hold it, outermost first
        self._waits: list[_Wait] = []

    @property
    def open(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waits)

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool) -> Record:
        """Take `names`; at the run's start (`first`) a held lock refuses unless the command line said to wait."""
        local = self._local
        known = local.past.answer("lock", key)
        if known is not None:
            self._hold(key, tuple(local.past.answers["lock", key].data.get("names") or ()))
            return known
        over = box.verdict(local.clock.running())
        if over is not None:
            return local.stopped("locked", key, {"names": [], "tokens": {}}, over)
        policy = local.policy
        patient = not first or policy.wait_lock or policy.preempt
        until = local.clock.running() + PATIENCE
        wait = _Wait(key, tuple(sorted(set(names))), box, local.future(), patient, until)
        self._waits.append(wait)
        self._try(wait)
        return await wait.future

    def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        """Give back what the step `key` took; the store's lock goes when its last holder went, after the commit."""
        local = self._local
        known = local.past.answer("unlock", key)
        free = []
        for name in sorted(set(names)):
            holding = self._holding.get(name, [])
            if key in holding:
                holding.remove(key)
                if not holding:
                    del self._holding[name]
                    free.append(name)
        if known is not None:
            return known
        seq, at, wall = local.add("unlocked", key, {"names": sorted(set(names))})
        local.once_durable(lambda: self._release(free))
        return Record(seq, at, wall)

    def cut_stopped(self) -> None:
        for wait in list(self._waits):
            self._give_up(wait)

    def housekeeping(self) -> None:
        """In every turn: the locks live on, or LockLostError; and who wants them is heard."""
        if not self.store.tokens:
            return
        self.store.beat(acting=self.store.remote and self._local.calls.acting)
        demand = self.store.demanded()
        if demand is not None:
            self._local.cancel(demand)

    # -- inside

    def _release(self, names: list[str]) -> None:
        free = [name for name in names if name not in self._holding and name not in self._busy]
        if not free:
            return
        self._busy.update(free)

        def given(_: object) -> None:  # what cannot be given back expires
            self._busy.difference_update(free)
            for wait in list(self._waits):
                self._local.post(lambda wait=wait: self._try(wait))  # type: ignore[misc]  # bound early, on purpose

        self._ask(lambda: self.store.release(free), given)

    def _ask(self, request: Callable[[], T], then: Callable[[T | LockError], None]) -> None:
        """What the store answers; one that is far away is asked in a thread, while the run goes on."""

        def answer() -> T | LockError:
            try:
                return request()
            except LockError as error:
                return error

        if not self.store.remote:
            then(answer())
            return
        local = self._local

        def work() -> None:
            try:
                came = answer()
            except BaseException as bug:  # noqa: BLE001  # the run must not wait for what never comes
                local.post(functools.partial(local.crash, bug))
                return
            local.post(lambda: then(came))

        local.threads.submit(work)

    def _hold(self, key: str, names: tuple[str, ...]) -> None:
        for name in names:
            self._holding.setdefault(name, []).append(key)

    def _try(self, wait: _Wait) -> None:
        if wait not in self._waits or self._give_up(wait):
            return
        mine = [name for name in wait.names if name in self._holding]
        wanted = [name for name in wait.names if name not in mine]
        if any(not all(is_below(wait.key, holder) for holder in self._holding[name]) for name in mine):
            self._again(wait)  # a sibling has it
            return
        if any(name in self._busy for name in wait.names):
            self._again(wait)  # a sibling asks for it, or gives it back just now
            return
        if not wanted:
            self._grant(wait)
            return
        self._busy.update(wait.names)
        self._ask(lambda: self.store.take(wanted), lambda came: self._came(wait, came))

    def _came(self, wait: _Wait, came: Holding | LockError | None) -> None:
        """The store said who has the locks: we (None), somebody else, or that it cannot be used."""
        self._busy.difference_update(wait.names)
        if wait not in self._waits:
            self._release(list(wait.names))  # it was given up meanwhile
        elif came is None:
            self._grant(wait)
        elif isinstance(came, UnreachableError) and (self._may_wait(wait) or self._fresh(wait)):
            self._wait_on(wait, came.message)
        elif isinstance(came, LockError):
            self._refuse(wait, Fault(came.message, "lock", hint=came.hint))
        elif not self._may_wait(wait):
            self._refuse(wait, Fault(str(came), "lock", hint=came.way_out()))
        elif self._local.policy.preempt and not wait.asked:
            wait.asked = True
            self._ask(lambda: self.store.demand(came), lambda told: self._told(wait, came, told))
        else:
            self._wait_on(wait, str(came))

    def _told(self, wait: _Wait, held: Holding, told: LockError | None) -> None:
        """The holder was asked to give way, or could not be."""
        if isinstance(told, UnreachableError):
            wait.asked = False
        elif told is not None and wait in self._waits:
            self._refuse(wait, Fault(told.message, "lock", hint=told.hint))
            return
        self._wait_on(wait, str(held))

    def _may_wait(self, wait: _Wait) -> bool:
        return wait.patient and self._local.clock.running() < wait.until

    def _fresh(self, wait: _Wait) -> bool:
        return self._local.clock.running() < wait.until - PATIENCE + REACH

    def _wait_on(self, wait: _Wait, why: str) -> None:
        if why != wait.told:  # it looks several times a second, and people want to know what changes
            wait.told = why
            self._local.tell("log", wait.key, {"text": f"waiting: {why}"})
        self._again(wait)

    def _again(self, wait: _Wait) -> None:
        local = self._local
        local.alarm(local.clock.running() + (POLL_FAR if self.store.remote else POLL), lambda: self._try(wait))

    def _grant(self, wait: _Wait) -> None:
        self._waits.remove(wait)
        self._hold(wait.key, wait.names)
        tokens = {name: self.store.tokens[name] for name in wait.names}
        where = {"where": self.store.where} if self.store.where else {}
        seq, at, wall = self._local.add("locked", wait.key, {"names": list(wait.names), "tokens": tokens, **where})
        wait.future.set_result(Record(seq, at, wall, outputs={"tokens": tokens}))

    def _refuse(self, wait: _Wait, fault: Fault) -> None:
        self._waits.remove(wait)
        self._release(list(wait.names))  # what it took so far goes back
        data: Mapping[str, Any] = {
            "names": [],
            "tokens": {},
            "wanted": list(wait.names),
            "status": "failed",
            "error": fault_to_wire(fault),
        }
        seq, at, wall = self._local.add("locked", wait.key, data)
        wait.future.set_result(Record(seq, at, wall, status="failed", error=fault))

    def _give_up(self, wait: _Wait) -> bool:
        """Its box is over: what it took so far goes back."""
        over = wait.box.verdict(self._local.clock.running())
        if over is None:
            return False
        self._waits.remove(wait)
        self._release(list(wait.names))
        record = self._local.stopped("locked", wait.key, {"names": [], "tokens": {}, "wanted": list(wait.names)}, over)
        wait.future.set_result(record)
        return True


def is_below(key: str, holder: str) -> bool:
    """Whether the step `key` stands inside the step `holder` (or is it). The root holds for all."""
    key, holder = key.removesuffix("@locks"), holder.removesuffix("@locks")
    if holder == "" or holder.startswith("@") or key == holder:
        return True
    return key.startswith(holder) and key[len(holder)] in _BELOW
