"""One object of a set: applied on condition that nobody changed its places meanwhile; or deleted, and waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbook.actions._kube import workload
from runbook.actions._kube.cluster import Cluster, ConflictError, ForbiddenError, MissingError
from runbook.actions._kube.kinds import Ref
from runbook.actions._manifest.look import Seen, refusal
from runbook.contract import Context, Observation, PermanentError, TemporaryError, shorten

ATTEMPTS = 5
"""How often a conflict (409) is read again before it is reported."""

NOBODY = "1"
"""A resourceVersion that no object has: with it an apply creates, or is refused where there is an object already."""

SERVED_WITHIN = 30.0
"""Seconds in which a new CustomResourceDefinition is established."""

HEARD_WITHIN = 10.0
"""Seconds in which objects of a kind are taken after it was."""


def put(cluster: Cluster, ctx: Context, one: Seen, before: Observation, op: str, *, force: bool) -> None:
    """Apply one object. `before`: its places as they were seen; where they are neither so nor as wanted, it is refused.

    PermanentError, TemporaryError.
    """
    if one.is_no_op():
        return
    wanted = {} if one.would is None else one.after(op)
    for _ in range(ATTEMPTS):
        live = cluster.find(ctx, one.ref)
        now = one.state(live)
        moved = [name for name, found in now.items() if found != before.get(name) and found != wanted.get(name)]
        if moved:
            raise PermanentError(f"{one.item.origin}: {moved[0]} was changed by someone else meanwhile")
        try:
            _send(cluster, ctx, one, live, force=force or one.force)
        except ConflictError as error:
            if "Apply failed" in error.message:
                raise refusal(error, one) from None
            ctx.checkpoint()  # somebody changed another field: read again
        else:
            return
    raise TemporaryError(f"{one.ref} was changed by others {ATTEMPTS} times while it was to be applied")


def _send(cluster: Cluster, ctx: Context, one: Seen, live: Mapping[str, Any] | None, *, force: bool) -> None:
    metadata = dict(one.body["metadata"])
    if live is None:
        metadata["resourceVersion"] = NOBODY
    else:
        # What others change meanwhile they own: without force the server refuses to overwrite that by itself.
        metadata["uid"] = live["metadata"]["uid"]
        if force:
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    body = {**one.body, "metadata": metadata}
    waited = 0.0
    while True:
        try:
            cluster.apply(ctx, one.ref, body, force=force)
        except (ConflictError, ForbiddenError):
            raise
        except (TemporaryError, PermanentError) as error:
            if live is not None and "metadata.uid" in error.message:
                raise PermanentError(f"{one.item.origin}: {one.ref} was deleted by someone else meanwhile") from None
            wrong = refusal(error, one)
            # A kind that was defined or changed a moment ago: not every part of the server has heard of it.
            late = isinstance(error, MissingError) or "typed patch object" in error.message
            if one.computed is None or not late or waited >= HEARD_WITHIN:
                raise wrong from None
            ctx.sleep(0.2)
            waited += 0.2
        else:
            return


def served(cluster: Cluster, ctx: Context, ref: Ref) -> None:
    """Wait until a CustomResourceDefinition that was applied is established. PermanentError: its names are taken."""
    waited = 0.0
    while waited < SERVED_WITHIN:
        found = cluster.get(ctx, ref)
        named = workload.condition(found, "NamesAccepted") or {}
        if named.get("status") == "False":
            raise PermanentError(f"{ref} is not served: {named.get('message')}")
        if (workload.condition(found, "Established") or {}).get("status") == "True":
            return
        ctx.sleep(0.1)
        waited += 0.1
    raise TemporaryError(f"{ref} was not served within {SERVED_WITHIN:.0f} s")


def gone(cluster: Cluster, ctx: Context, ref: Ref, uid: str) -> None:
    """Wait until the object with this uid is no more. TemporaryError, at the deadline, says what holds it."""
    pause, found = 0.05, None
    try:
        while True:
            found = cluster.find(ctx, ref)
            if found is None or found["metadata"].get("uid") != uid:
                return
            ctx.sleep(pause)
            pause = min(2 * pause, 1.0)
    except TemporaryError as error:
        if found is None or ctx.remaining() > 0:
            raise
        raise TemporaryError(f"{ref} is still there{held(found)}") from error


def held(found: Mapping[str, Any]) -> str:
    """What an object that was deleted waits for."""
    finalizers = found["metadata"].get("finalizers") or (found.get("spec") or {}).get("finalizers")
    if finalizers:
        return ": it waits for " + shorten(", ".join(map(str, finalizers)), 300)
    return ": it is being terminated" if found["metadata"].get("deletionTimestamp") else ""
