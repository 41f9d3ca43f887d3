"""Locks as the engine asks for them: between runs by the store, inside the run by the path of the steps.

A step whose ancestor holds a name has it already; siblings of one run wait for each other as runs do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook.interpreter.effects import Box, Fault, Record
from runbook.runner.journal import Journal, JournalError
from runbook.runner.locks import Holder, LockError, Locks
from runbook.runner.quiet import Future
from runbook.runner.records import fault_to_wire

if TYPE_CHECKING:
    from runbook.runner.local import Local

POLL = 0.25  # seconds between two looks at a lock that somebody else holds
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


class LockWaits:
    """The locks of one run: who of its steps holds what, and who waits."""

    def __init__(self, local: Local, store: Locks) -> None:
        self._local = local
        self.store = store
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

    # -- inside

    def _release(self, names: list[str]) -> None:
        with contextlib.suppress(LockError):  # what cannot be given back expires
            self.store.release([name for name in names if name not in self._holding])
        for wait in list(self._waits):
            self._local.post(lambda wait=wait: self._try(wait))  # type: ignore[misc]  # bound early, on purpose

    def _hold(self, key: str, names: tuple[str, ...]) -> None:
        for name in names:
            self._holding.setdefault(name, []).append(key)

    def _try(self, wait: _Wait) -> None:
        if wait not in self._waits or self._give_up(wait):
            return
        local = self._local
        mine = [name for name in wait.names if name in self._holding]
        if any(not all(is_below(wait.key, holder) for holder in self._holding[name]) for name in mine):
            self._again(wait)  # a sibling has it
            return
        try:
            held = self.store.take([name for name in wait.names if name not in mine])
        except LockError as error:
            self._refuse(wait, Fault(error.message, "lock", hint=error.hint))
            return
        if held is None:
            self._grant(wait)
            return
        if not wait.patient or local.clock.running() >= wait.until:
            self.store.release([name for name in wait.names if name not in self._holding])
            self._refuse(wait, Fault(str(held), "lock", hint=_way_out(held)))
            return
        if local.policy.preempt and not wait.asked:
            wait.asked = True
            fault = self._preempt(held)
            if fault is not None:
                self._refuse(wait, fault)
                return
        local.tell("log", wait.key, {"text": f"waiting: {held}"})
        self._again(wait)

    def _again(self, wait: _Wait) -> None:
        local = self._local
        local.alarm(local.clock.running() + POLL, lambda: self._try(wait))

    def _grant(self, wait: _Wait) -> None:
        self._waits.remove(wait)
        self._hold(wait.key, wait.names)
        tokens = {name: self.store.tokens[name] for name in wait.names}
        seq, at, wall = self._local.add("locked", wait.key, {"names": list(wait.names), "tokens": tokens})
        wait.future.set_result(Record(seq, at, wall, outputs={"tokens": tokens}))

    def _refuse(self, wait: _Wait, fault: Fault) -> None:
        self._waits.remove(wait)
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
        with contextlib.suppress(LockError):
            self.store.release([name for name in wait.names if name not in self._holding])
        record = self._local.stopped("locked", wait.key, {"names": [], "tokens": {}, "wanted": list(wait.names)}, over)
        wait.future.set_result(record)
        return True

    @staticmethod
    def _preempt(held: Holder) -> Fault | None:
        """Ask the holder's process to cancel its run and clean up; the lock is waited for then."""
        if held.parked:
            return Fault(str(held), "lock", hint=f"nobody runs it: `runbook cancel {held.run}` first")
        try:
            journal = Journal.open(held.folder / "journal.db")
            try:
                journal.send("preempt", {"why": "another run needs its locks (--preempt)"})
            finally:
                journal.close()
        except JournalError as error:
            return Fault(f"{held}; it could not be told to give way: {error.message}", "lock")
        return None


def is_below(key: str, holder: str) -> bool:
    """Whether the step `key` stands inside the step `holder` (or is it). The root holds for all."""
    key, holder = key.removesuffix("@locks"), holder.removesuffix("@locks")
    if holder == "" or holder.startswith("@") or key == holder:
        return True
    return key.startswith(holder) and key[len(holder)] in _BELOW


def _way_out(held: Holder) -> str:
    if held.parked:
        return f"`runbook answer {held.run}` or `runbook cancel {held.run}`"
    if held.dead():
        return f"`runbook resume {held.run}` ends what it began; --wait-lock waits"
    return f"--wait-lock waits for it, --preempt cancels run {held.run} and waits for its clean-up"
