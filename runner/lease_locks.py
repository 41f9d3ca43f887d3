"""Named locks between machines: Kubernetes Leases (coordination.k8s.io/v1), one for each name.

No clock is compared with another machine's. An owner is sure of a lock for as long as the Lease lasts since it *sent*
the last renewal that was taken, less a margin. Who wants the lock takes it over only after it has watched the Lease for
as long as it lasts, by its own clock, and saw no renewal. `leaseTransitions` is the fencing token: it grows with every
change of the owning process, in the same conditional write (resourceVersion) that makes the change. (As client-go's
leader election does it, but for the token: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runbook.interpreter.frozen import frozen
from runbook.runner import lease_record, processes
from runbook.runner.lease_api import REQUEST, Leases
from runbook.runner.lease_record import (
    SECONDS,
    Holder,
    Owner,
    first_token,
    holder_of,
    is_of,
    lease_name,
    mark_of,
    token_of,
)
from runbook.runner.lock_store import Holding
from runbook.runner.locks import LockError, LockLostError, UnreachableError

ROUNDS = 5  # of read and conditional write, when others write meanwhile


@frozen
class _Held:
    """A Lease of ours as it was last written, and until when (by our clock) nobody else can have it."""

    lease: dict[str, Any]
    until: float


class LeaseLocks:
    """The locks of one run in one namespace. Safe to use from several threads; requests go one after the other."""

    remote = True

    def __init__(self, leases: Leases, run: str, owner: str, *, seconds: int = SECONDS) -> None:
        """`owner`: tells this run from one of the same name on another machine. `seconds`: how long a Lease lasts."""
        self.where = leases.where
        self.tokens: dict[str, int] = {}
        self._leases = leases
        me = processes.me()
        self._me = Owner(run, owner, me.user, me.host, me.pid)
        self._seconds = seconds
        self._held: dict[str, _Held] = {}
        self._seen: dict[str, tuple[tuple[Any, ...], float]] = {}  # name -> a holder's sign of life, and since when
        self._seized: set[str] = set()  # parked ones that we were told to take
        self._wire = threading.RLock()  # one conversation at a time
        self._renewing = threading.Event()
        self._renewed = processes.clock()
        self._lost = ""
        self._trouble = ""
        self._demand: str | None = None

    # -- taking and giving back: these talk to the API server

    def take(self, names: Iterable[str]) -> Holding | None:
        """As LockStore.take. UnreachableError, LockError."""
        with self._wire:
            for name in sorted(set(names)):
                held = self._take(name) if name not in self._held else None
                if held is not None:
                    return held
        return None

    def _take(self, name: str) -> Holder | None:
        for _ in range(ROUNDS):
            asked = processes.clock()
            found = self._leases.get(lease_name(name))
            if found is None:
                made = self._leases.create(lease_record.owned(lease_record.new(name), self._me, self._seconds))
                if made is not None:
                    self._keep(name, made, asked)
                    return None
                continue
            held = holder_of(found)
            if held is not None and not self._free(name, found, held):
                return held
            if self._put(name, found, asked):
                return None
        raise UnreachableError(f"lock {name}: others write its Lease all the time")

    def _put(self, name: str, found: Mapping[str, Any], asked: float) -> bool:
        """Become the owner of a Lease that is free, if nobody was quicker."""
        made = self._leases.replace(lease_record.owned(found, self._me, self._seconds))
        if made is None:
            return False
        self._keep(name, made, asked)
        return True

    def _free(self, name: str, found: Mapping[str, Any], held: Holder) -> bool:
        """Whether a held Lease may be taken: it is our own, or was watched for its time without a sign of life."""
        if is_of(found, self._me) or (held.parked and name in self._seized):
            return True
        if held.parked:
            return False
        sign, now = lease_record.sign_of(found), processes.clock()
        known, since = self._seen.get(name, (None, now))
        if known != sign:
            self._seen[name] = sign, now
            return False
        return now >= since + held.seconds

    def retake(self, tokens: Mapping[str, int]) -> list[str]:
        """As LockStore.retake. Nothing is taken when one of them is lost. The tokens are new ones."""
        with self._wire:
            found = {name: self._leases.get(lease_name(name)) for name in sorted(tokens)}
            lost = [name for name, lease in found.items() if lease is None or not self._still(lease, tokens[name])]
            for name, lease in found.items():
                if lost or lease is None:
                    break
                if not self._put(name, lease, processes.clock()):
                    held = self._take(name)  # somebody wrote it just now, who may only have asked us to give way
                    lost = [name] if held is not None or not self._still(self._held[name].lease, tokens[name]) else []
            return lost

    def _still(self, lease: Mapping[str, Any], token: int) -> bool:
        """Nobody else has held it since we got this token. A process of ours may have got a later one, and died."""
        return is_of(lease, self._me) and first_token(lease) <= token <= token_of(lease)

    def release(self, names: Iterable[str]) -> None:
        """As LockStore.release."""
        with self._wire:
            mine = [(name, self._forget(name)) for name in sorted(set(names)) if name in self._held]
            for name, held in mine:
                self._write(name, held.lease, lease_record.given_back)

    def park(self) -> None:
        """As LockStore.park."""
        with self._wire:
            for name, held in sorted(self._held.items()):
                self._write(name, held.lease, lease_record.parked)

    def demand(self, held: Holding) -> None:
        """Leave a word at the Lease, which its owner reads at the next renewal. One that waits for a person has nobody
        who reads it: the lock is taken, and its run finds that out."""
        assert isinstance(held, Holder)
        with self._wire:
            if held.parked:
                self._seized.add(held.name)
                return
            found = self._leases.get(lease_name(held.name))
            if found is not None and holder_of(found) == held:
                self._write(held.name, found, lambda lease: lease_record.demanded(lease, str(self._me)))

    def _write(self, name: str, lease: Mapping[str, Any], edit: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        """Change a Lease as long as its owner stays who it is."""
        current: Mapping[str, Any] | None = lease
        for _ in range(ROUNDS):
            if current is None or mark_of(current) != mark_of(lease):
                return
            if self._leases.replace(edit(current)) is not None:
                return
            current = self._leases.get(lease_name(name))

    # -- being sure: these never block, but for `assure`

    def sure(self) -> bool:
        """As LockStore.sure."""
        if self._lost:
            return False
        now = processes.clock()
        return all(now < held.until for held in list(self._held.values()))

    def assure(self) -> str | None:
        """As LockStore.assure. Takes two requests at most, for each lock."""
        if self.sure():
            return None
        with self._wire:
            if not self._lost and not self.sure():
                self._renew()
        return None if self.sure() else self._why()

    def beat(self, *, acting: bool) -> None:
        """As LockStore.beat. Renewals are sent by a thread, which lives no longer than they take."""
        if self._lost or (acting and not self.sure()):
            raise LockLostError(self._why(), "resume the run: it goes on if nobody else held the lock meanwhile")
        if self._held and processes.clock() >= self._renewed + self._seconds / 4 and not self._renewing.is_set():
            self._renewing.set()
            try:
                threading.Thread(target=self._renew_once, daemon=True, name="lease").start()
            except RuntimeError as error:  # no thread is to be had just now: the next beat tries again
                self._renewing.clear()
                self._trouble = str(error)

    def demanded(self) -> str | None:
        """As LockStore.demanded."""
        demand, self._demand = self._demand, None
        return demand

    def renew(self) -> None:
        """A sign of life for all that is held, now."""
        with self._wire:
            self._renew()

    def _renew_once(self) -> None:
        try:
            self.renew()
        finally:
            self._renewing.clear()

    def _renew(self) -> None:
        """What goes wrong is remembered, as the Leases last for a while."""
        self._renewed = processes.clock()
        try:
            for name in sorted(self._held):
                self._renew_one(name)
            self._trouble = ""
        except LockError as error:
            self._trouble = error.message
        except Exception as bug:  # noqa: BLE001  # in its thread nobody would hear of it, and a run that stops says why
            self._trouble = f"the renewal failed: {type(bug).__name__}: {bug}"

    def _renew_one(self, name: str) -> None:
        for _ in range(ROUNDS):
            asked, current = processes.clock(), self._held[name].lease
            made = self._leases.replace(lease_record.renewed(current))
            if made is not None:
                self._keep(name, made, asked)
                return
            found = self._leases.get(lease_name(name))
            if found is None:
                self._lost = f"lock {name} was lost: somebody deleted its Lease"
                return
            other = holder_of(found)
            if mark_of(found) != mark_of(current) or other is None:
                to = f" to run {other.run} ({other.user} on {other.host})" if other is not None else ""
                self._lost = f"lock {name} was lost{to}"
                return
            if other.asked:
                self._demand = f"{other.asked} needs lock {name} (--preempt)"
            self._held[name] = _Held(found, self._held[name].until)
        raise UnreachableError(f"lock {name}: others write its Lease all the time")

    def _why(self) -> str:
        """The sentence of a run that stops."""
        if self._lost:
            return f"{self._lost}: stopped here, nothing more was done"
        names = ", ".join(sorted(self._held))
        why = self._trouble or f"this process did not run for longer than the {self._seconds} s of its Lease"
        return f"lock {names} may be somebody else's by now ({why}): stopped here, nothing more was done"

    def close(self) -> None:
        """Close the connection. Waits for a request that is on its way no longer than that may take."""
        patient = self._wire.acquire(timeout=REQUEST)
        self._leases.close()
        if patient:
            self._wire.release()

    # -- inside

    def _keep(self, name: str, lease: dict[str, Any], asked: float) -> None:
        self._held[name] = _Held(lease, asked + self._seconds * 0.8)  # the rest is for clocks that do not run alike
        self.tokens[name] = token_of(lease)
        self._seen.pop(name, None)
        self._seized.discard(name)

    def _forget(self, name: str) -> _Held:
        self.tokens.pop(name, None)
        return self._held.pop(name)
