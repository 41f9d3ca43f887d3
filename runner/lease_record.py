"""What stands in a Lease of ours: the lock, its owner, the token, and what is asked of the owner. Pure, but for dates.

Names are for kubectl (`holderIdentity`) and in annotations (everything that is read back).
"""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

from runbook.interpreter.frozen import frozen

SECONDS = 15  # that a Lease lasts after its last renewal

_LOCK, _RUN, _OWNER, _FIRST, _USER, _HOST, _PARKED, _PREEMPT = (
    f"runbook/{name}" for name in ("lock", "run", "owner", "first-token", "user", "host", "parked", "preempt")
)


@frozen
class Owner:
    """A process of a run. `mark`: tells the run from one of the same name on another machine; the same for all its
    processes."""

    run: str
    mark: str
    user: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"run {self.run} ({self.user} on {self.host})"

    @property
    def identity(self) -> str:
        """For people who look at Leases."""
        return f"{self.user}@{self.host} run {self.run} process {self.pid}"


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


def lease_name(lock: str) -> str:
    """The Lease of a lock: its name made fit (RFC 1123), and a digest, as two names may become the same."""
    plain = re.sub(r"[^a-z0-9]+", "-", lock.lower()).strip("-")[:40].strip("-")
    return "-".join(part for part in ("runbook", plain, hashlib.sha256(lock.encode()).hexdigest()[:10]) if part)


# -- reading one


def holder_of(lease: Mapping[str, Any]) -> Holder | None:
    """Who holds it, dead or alive; None when it was given back."""
    spec, about = lease.get("spec") or {}, _about(lease)
    if not spec.get("holderIdentity"):
        return None
    return Holder(
        name=about.get(_LOCK) or lease["metadata"]["name"],
        token=token_of(lease),
        run=about.get(_RUN) or str(spec["holderIdentity"]),
        user=about.get(_USER) or "somebody",
        host=about.get(_HOST) or "another machine",
        since=str(spec.get("acquireTime") or "")[11:19] + "Z",
        seconds=int(spec.get("leaseDurationSeconds") or SECONDS),
        parked=_PARKED in about,
        asked=about.get(_PREEMPT) or "",
    )


def token_of(lease: Mapping[str, Any]) -> int:
    """The fencing token: it grows with every change of the owning process."""
    return int((lease.get("spec") or {}).get("leaseTransitions") or 0)


def mark_of(lease: Mapping[str, Any]) -> tuple[Any, int]:
    """What stays the same while a Lease stays with one owner: a deleted one that was made anew is another."""
    return lease["metadata"].get("uid"), token_of(lease)


def sign_of(lease: Mapping[str, Any]) -> tuple[Any, ...]:
    """The owner's sign of life: it differs after each renewal. Its `renewTime` is compared with nothing else."""
    spec = lease.get("spec") or {}
    return (*mark_of(lease), spec.get("holderIdentity"), spec.get("renewTime"))


def is_of(lease: Mapping[str, Any], owner: Owner) -> bool:
    """This run's, be it of an earlier process of it or given back by it."""
    return bool(_about(lease).get(_OWNER) == owner.mark)


def first_token(lease: Mapping[str, Any]) -> int:
    """The token with which its owner's unbroken ownership began."""
    found = str(_about(lease).get(_FIRST) or "")
    return int(found) if found.isdigit() else token_of(lease)


# -- writing one: always a copy, with the resourceVersion that was read


def new(lock: str) -> dict[str, Any]:
    """A Lease that nobody holds yet."""
    labels = {"app.kubernetes.io/managed-by": "runbook"}
    return {"metadata": {"name": lease_name(lock), "labels": labels, "annotations": {_LOCK: lock}}, "spec": {}}


def owned(lease: Mapping[str, Any], owner: Owner, seconds: int) -> dict[str, Any]:
    """With a new owner, and the next token."""
    token, now = token_of(lease) + 1, _now()
    first = first_token(lease) if is_of(lease, owner) else token
    about = {_RUN: owner.run, _OWNER: owner.mark, _FIRST: str(first), _USER: owner.user, _HOST: owner.host}
    made = _edited(lease, about)
    made["spec"] = {
        "holderIdentity": owner.identity,
        "leaseDurationSeconds": seconds,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": token,
    }
    return made


def renewed(lease: Mapping[str, Any]) -> dict[str, Any]:
    """With a new sign of life."""
    made = copy.deepcopy(dict(lease))
    made["spec"]["renewTime"] = _now()
    return made


def given_back(lease: Mapping[str, Any]) -> dict[str, Any]:
    """Free. Token and owner stay, so that a resume knows that nobody else had it."""
    made = _edited(lease, {})
    made["spec"]["holderIdentity"] = ""
    return made


def parked(lease: Mapping[str, Any]) -> dict[str, Any]:
    """Held by a run that waits for a person: it does not expire."""
    return _edited(lease, {_PARKED: "true"})


def demanded(lease: Mapping[str, Any], by: str) -> dict[str, Any]:
    """With a word for the owner that it should give way."""
    return _edited(lease, {_PREEMPT: by})


def _edited(lease: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, Any]:
    """With these annotations, and without what was said to or of its last state."""
    made = copy.deepcopy(dict(lease))
    kept = {name: value for name, value in _about(lease).items() if name not in (_PARKED, _PREEMPT)}
    made["metadata"]["annotations"] = {**kept, **about}
    return made


def _about(lease: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = lease["metadata"].get("annotations") or {}
    return found


def _now() -> str:
    """MicroTime, as the API writes it."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
