"""Secrets are looked up in threads, all at once, for no longer than a minute; their values stay in the host.

What is not there is told together.
An optional one in a Kubernetes Secret that cannot be read, or not at once, counts as absent, with a warning: what can
do without it (an emergency's first message) does not wait for a cluster that is down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook.interpreter.effects import Fault, Record, SecretRef, Status
from runbook.runner.quiet import Future
from runbook.runner.records import fault_to_wire
from runbook.runner.secret_looks import fault_of, looked_for, together

if TYPE_CHECKING:
    from runbook.runner.local import Local

PATIENCE = 60.0  # seconds for all secrets of a playbook
BRIEFLY = 3.0  # seconds for those that it can do without


@dataclass(eq=False, slots=True)
class _Search:
    """The secrets of one playbook."""

    key: str
    refs: tuple[SecretRef, ...]
    future: Future[Record]
    known: Record | None
    needed: set[str]  # those that are still looked for
    spare: set[str]  # and those that it can do without
    present: dict[str, bool] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class SecretWaits:
    """Secrets on their way."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._given_up: set[str] = set()  # coordinates that another playbook of this run waited for in vain
        self.open = 0

    async def resolve(self, key: str, refs: tuple[SecretRef, ...]) -> Record:
        """Which of them are there. Also when that is on record: the values must be in this process's host."""
        local = self._local
        spare = [ref for ref in refs if ref.optional and ref.kind == "k8s"]
        needed = [ref for ref in refs if ref not in spare]
        names = {ref.name for ref in needed}
        search = _Search(key, refs, local.future(), local.past.answer("secrets", key), names, {r.name for r in spare})
        self.open += 1
        local.alarm(local.clock.running() + PATIENCE, lambda: self._too_late(search))
        for ref in needed:
            self._look(ref, functools.partial(self._found, search, ref))
        for ref in spare:
            self._look_briefly(search, ref)
        return await search.future

    def _look(self, ref: SecretRef, came: Callable[[bool, Fault | None], None]) -> None:
        local = self._local

        def look() -> None:
            there, fault = fault_of(local.host, ref)
            local.post(lambda: came(there, fault))

        local.later(lambda: local.threads.submit(look))

    def _look_briefly(self, search: _Search, ref: SecretRef) -> None:
        where = looked_for(ref)
        slow = Fault(f"not found within {BRIEFLY:g} s", "timeout")

        def came(there: bool, fault: Fault | None) -> None:
            if ref.name not in search.spare or search.future.done():
                return
            search.spare.discard(ref.name)
            search.present[ref.name] = there
            if fault is not None:
                self._given_up |= {where} if fault is slow else set()
                search.warnings.append(f"the optional secret {where} counts as absent: {fault.message}")
            self._maybe_done(search)

        wait = 0.0 if where in self._given_up else BRIEFLY
        self._local.alarm(self._local.clock.running() + wait, lambda: came(False, slow))  # not there
        self._look(ref, came)

    def _found(self, search: _Search, ref: SecretRef, there: bool, fault: Fault | None) -> None:
        if ref.name not in search.needed or search.future.done():
            return
        search.needed.discard(ref.name)
        search.present[ref.name] = there
        if fault is not None:
            search.faults[ref.name] = fault
        self._maybe_done(search)

    def _too_late(self, search: _Search) -> None:
        for ref in search.refs:
            late = Fault(f"a secret was not found within {PATIENCE:g} s: {looked_for(ref)}", "timeout", temporary=True)
            self._found(search, ref, False, late)  # not there

    def _maybe_done(self, search: _Search) -> None:
        if search.needed or (search.spare and not search.faults):
            return
        self.open -= 1
        if search.known is not None:
            search.future.set_result(search.known)
            return
        fault = together([(ref, search.faults[ref.name]) for ref in search.refs if ref.name in search.faults])
        present = {ref.name: search.present[ref.name] for ref in search.refs if ref.name in search.present}
        data: dict[str, Any] = dict(present)
        if fault is not None:
            data["@error"] = fault_to_wire(fault)  # no secret can have this name
        seq, at, wall = self._local.add("secrets", search.key, data)
        for message in search.warnings:
            self._local.emit("warning", search.key.removesuffix("@secrets"), {"message": message})
        self._local.warn_of_secrets()
        status: Status = "failed" if fault is not None else "succeeded"
        search.future.set_result(Record(seq, at, wall, status, outputs=present, error=fault))
