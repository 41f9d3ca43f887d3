"""Named locks between machines: Kubernetes Leases (coordination.k8s.io/v1), one for each name.

No clock is compared with another machine's. An owner is sure of a lock for as long as the Lease lasts since it *sent*
the last renewal that was taken, less a margin. Who wants the lock takes it over only after it has watched the Lease for
as long as it lasts, by its own clock, and saw no renewal. `leaseTransitions` is the fencing token: it grows with every
change of the owning process, in the same conditional write (resourceVersion) that makes the change. (As client-go's
leader election does it, but for the token: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection)
"""

from __future__ import annotations

import copy
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter.frozen import frozen
from runbook.runner import processes
from runbook.runner.lock_store import Holding
from runbook.runner.locks import LockError, LockLostError, UnreachableError

T = TypeVar("T")

SECONDS = 15  # that a Lease lasts after its last renewal
REQUEST = 4.0  # seconds that one request may take
ROUNDS = 5  # of read and conditional write, when others write meanwhile

_LOCK, _RUN, _OWNER, _FIRST, _USER, _HOST, _PARKED, _PREEMPT = (
    f"runbook/{name}" for name in ("lock", "run", "owner", "first-token", "user", "host", "parked", "preempt")
)


class LeaseApi(Protocol):
    """The Leases of one namespace. None: there is none, there is one already, or it was changed meanwhile.

    TemporaryError and PermanentError for everything else that the API server says, or does not.
    """

    def get(self, name: str) -> dict[str, Any] | None: ...
    def forbidden(self) -> list[str]: ...
    def all(self) -> list[dict[str, Any]]: ...
    def create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None: ...
    def replace(self, lease: Mapping[str, Any]) -> dict[str, Any] | None: ...
    def close(self) -> None: ...


class Leases:
    """The Leases of a place: reached when first asked, and what goes wrong with them is a LockError."""

    def __init__(self, connect: Callable[[], LeaseApi], where: str) -> None:
        self.where = where
        self._connect = connect
        self._api: LeaseApi | None = None

    def get(self, name: str) -> dict[str, Any] | None:
        return self._ask(lambda api: api.get(name))

    def check_rights(self) -> None:
        """LockError that names what this user may not do with them."""
        forbidden = self._ask(lambda api: api.forbidden())
        if forbidden:
            verbs = " and ".join(forbidden)
            hint = "bind a Role with get, create and update of leases.coordination.k8s.io to this user"
            raise LockError(f"the locks cannot be used ({self.where}): no right to {verbs} leases", hint)

    def all(self) -> list[dict[str, Any]]:
        return self._ask(lambda api: api.all())

    def create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._ask(lambda api: api.create(lease))

    def replace(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._ask(lambda api: api.replace(lease))

    def close(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            api.close()

    def _ask(self, request: Callable[[LeaseApi], T]) -> T:
        try:
            if self._api is None:
                self._api = self._connect()
            return request(self._api)
        except TemporaryError as error:
            raise UnreachableError(f"the locks cannot be reached ({self.where}): {error.message}") from error
        except PermanentError as error:
            raise LockError(f"the locks cannot be used ({self.where}): {error.message}", error.hint) from error


@frozen
class Holder:
    """Who holds a Lease, as its annotations say. `since`: by the holder's own clock, for people only."""

    name: str
    token: int
    run: str
    user: str
    host: str
    since: str
    seconds: int
    parked: bool
    asked: str  # who asked it to give way

    def __str__(self) -> str:
        text = f"lock {self.name} is held by run {self.run} ({self.user} on {self.host}, since {self.since})"
        if self.parked:
            return f"{text}; it waits for a person"
        return f"{text}; {self.asked} asked it to give way" if self.asked else text

    def way_out(self) -> str:
        """What to do about it."""
        if self.parked:
            return f"answer or cancel it on {self.host}; --preempt takes the lock, then that run can only clean up"
        return (
            f"--wait-lock waits for it (if nobody runs it any more, {self.seconds} s), "
            f"--preempt cancels run {self.run} and waits for its clean-up"
        )


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
        self._run = run
        self._owner = owner
        self._seconds = seconds
        me = processes.me()
        self._user, self._host = me.user, me.host
        self._identity = f"{me.user}@{me.host} run {run} process {me.pid} {owner[:8]}"
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
                made = self._leases.create(self._new(name))
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
        taken = self._owned(found, int(found["spec"].get("leaseTransitions") or 0) + 1)
        made = self._leases.replace(taken)
        if made is None:
            return False
        self._keep(name, made, asked)
        return True

    def _free(self, name: str, found: Mapping[str, Any], held: Holder) -> bool:
        """Whether a held Lease may be taken: it is our own, was given up, or was watched for its time without a sign
        of life. `renewTime` is only compared with itself."""
        if self._ours(found) or (held.parked and name in self._seized):
            return True
        if held.parked:
            return False
        spec = found["spec"]
        sign = (found["metadata"].get("uid"), held.token, spec.get("holderIdentity"), spec.get("renewTime"))
        now = processes.clock()
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
        first = (lease["metadata"].get("annotations") or {}).get(_FIRST) or "0"
        return self._ours(lease) and first.isdigit() and 0 < int(first) <= token <= _token(lease)

    def release(self, names: Iterable[str]) -> None:
        """As LockStore.release."""
        with self._wire:
            mine = [(name, self._forget(name)) for name in sorted(set(names)) if name in self._held]
            for name, held in mine:
                self._write(name, held.lease, _given_back)

    def park(self) -> None:
        """As LockStore.park."""
        with self._wire:
            for name, held in sorted(self._held.items()):
                self._write(name, held.lease, _parked)

    def demand(self, held: Holding) -> None:
        """Leave a word at the Lease, which its owner reads at the next renewal. One that waits for a person has nobody
        who reads it: the lock is taken, and its run finds that out."""
        assert isinstance(held, Holder)
        with self._wire:
            if held.parked:
                self._seized.add(held.name)
                return
            found = self._leases.get(lease_name(held.name))
            word = f"run {self._run} ({self._user} on {self._host})"
            if found is not None and holder_of(found) == held:
                self._write(held.name, found, lambda lease: lease["metadata"]["annotations"].update({_PREEMPT: word}))

    def _write(self, name: str, lease: Mapping[str, Any], edit: Callable[[dict[str, Any]], None]) -> None:
        """Change a Lease as long as its owner stays who it is."""
        current = dict(lease)
        for _ in range(ROUNDS):
            wanted = copy.deepcopy(current)
            edit(wanted)
            if self._leases.replace(wanted) is not None:
                return
            found = self._leases.get(lease_name(name))
            if found is None or _mark(found) != _mark(lease):
                return
            current = found

    # -- being sure: these never block, but for `assure`

    def sure(self) -> bool:
        """As LockStore.sure."""
        if self._lost:
            return False
        now = processes.clock()
        return all(now < held.until for held in list(self._held.values()))

    def assure(self) -> str | None:
        """As LockStore.assure. Takes two requests at most, for each lock."""
        if self._lost or self.sure():
            return self._lost or None
        with self._wire:
            if not self.sure():
                self._renew()
        return None if self.sure() else self._why()

    def beat(self, *, acting: bool) -> None:
        """As LockStore.beat. Renewals are sent by a thread, which lives no longer than they take."""
        if self._lost or (acting and not self.sure()):
            raise LockLostError(self._why(), "resume the run: it goes on if nobody else held the lock meanwhile")
        if self._held and processes.clock() >= self._renewed + self._seconds / 4 and not self._renewing.is_set():
            self._renewing.set()
            threading.Thread(target=self._renew_once, daemon=True, name="lease").start()

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

    def _renew_one(self, name: str) -> None:
        for _ in range(ROUNDS):
            asked, current = processes.clock(), self._held[name].lease
            renewed = copy.deepcopy(current)
            renewed["spec"]["renewTime"] = _now()
            made = self._leases.replace(renewed)
            if made is not None:
                self._keep(name, made, asked)
                return
            found = self._leases.get(lease_name(name))
            if found is None:
                self._lost = f"lock {name} was lost: somebody deleted its Lease"
                return
            if _mark(found) != _mark(current) or not self._ours(found):
                other = holder_of(found)
                to = f" to run {other.run} ({other.user} on {other.host})" if other is not None else ""
                self._lost = f"lock {name} was lost{to}"
                return
            asking = found["metadata"].get("annotations", {}).get(_PREEMPT)
            if asking:
                self._demand = f"{asking} needs lock {name} (--preempt)"
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
        self.tokens[name] = int(lease["spec"]["leaseTransitions"])
        self._seen.pop(name, None)
        self._seized.discard(name)

    def _forget(self, name: str) -> _Held:
        self.tokens.pop(name, None)
        return self._held.pop(name)

    def _ours(self, lease: Mapping[str, Any]) -> bool:
        """This run's, be it of an earlier process (the journal lets only one live) or given back by us."""
        return bool((lease["metadata"].get("annotations") or {}).get(_OWNER) == self._owner)

    def _new(self, name: str) -> dict[str, Any]:
        labels = {"app.kubernetes.io/managed-by": "runbook"}
        metadata = {"name": lease_name(name), "labels": labels, "annotations": {_LOCK: name}}
        return self._owned({"metadata": metadata, "spec": {}}, 1)

    def _owned(self, lease: Mapping[str, Any], token: int) -> dict[str, Any]:
        """The Lease with us as its new owner."""
        wanted, now = copy.deepcopy(dict(lease)), _now()
        annotations = dict(wanted["metadata"].get("annotations") or {})
        first = annotations.get(_FIRST) if self._ours(lease) else None
        annotations |= {_RUN: self._run, _OWNER: self._owner, _USER: self._user, _HOST: self._host}
        annotations[_FIRST] = first or str(token)
        wanted["metadata"]["annotations"] = {
            key: value for key, value in annotations.items() if key not in (_PARKED, _PREEMPT)
        }
        wanted["spec"] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": token,
        }
        return wanted


def lease_name(lock: str) -> str:
    """The Lease of a lock: its name made fit (RFC 1123), and a digest, as two names may become the same."""
    plain = re.sub(r"[^a-z0-9]+", "-", lock.lower()).strip("-")[:40].strip("-")
    return "-".join(part for part in ("runbook", plain, hashlib.sha256(lock.encode()).hexdigest()[:10]) if part)


def holder_of(lease: Mapping[str, Any]) -> Holder | None:
    """Who holds it, dead or alive; None when it was given back."""
    spec, about = lease.get("spec") or {}, lease["metadata"].get("annotations") or {}
    if not spec.get("holderIdentity"):
        return None
    return Holder(
        name=about.get(_LOCK) or lease["metadata"]["name"],
        token=_token(lease),
        run=about.get(_RUN) or str(spec["holderIdentity"]),
        user=about.get(_USER) or "somebody",
        host=about.get(_HOST) or "another machine",
        since=str(spec.get("acquireTime") or "")[11:19] + "Z",
        seconds=int(spec.get("leaseDurationSeconds") or SECONDS),
        parked=_PARKED in about,
        asked=about.get(_PREEMPT) or "",
    )


def _token(lease: Mapping[str, Any]) -> int:
    return int((lease.get("spec") or {}).get("leaseTransitions") or 0)


def _mark(lease: Mapping[str, Any]) -> tuple[Any, int]:
    """What stays the same while a Lease stays with one owner: a deleted one that was made anew is another."""
    return lease["metadata"].get("uid"), _token(lease)


def _given_back(lease: dict[str, Any]) -> None:
    lease["spec"]["holderIdentity"] = ""
    annotations = lease["metadata"]["annotations"]
    lease["metadata"]["annotations"] = {
        key: value for key, value in annotations.items() if key not in (_PARKED, _PREEMPT)
    }


def _parked(lease: dict[str, Any]) -> None:
    lease["metadata"]["annotations"][_PARKED] = "true"


def _now() -> str:
    """MicroTime, as the API writes it."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
