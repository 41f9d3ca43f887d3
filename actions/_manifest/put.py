"""One object of a set: applied on condition that nobody changed its places meanwhile; or deleted, and waited for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


SILENT = 1.0
"""Seconds that a deletion may take before it is said what it waits for."""

NAMED = 3
"""Objects that are named in one sentence."""

HELD = (
    "who set the finalizer has to remove it when its work is done; where nobody does any more, remove it by hand"
    " (metadata.finalizers), then go on"
)


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


def gone(cluster: Cluster, ctx: Context, *objects: tuple[Ref, str]) -> None:
    """Wait until the objects, each with this uid, are no more, and say in the log what holds them.

    TemporaryError, at the deadline, says it, too, and what a person can do about it.
    """
    pause, waited, told = 0.05, 0.0, ""
    left: list[tuple[Ref, dict[str, Any]]] = []
    try:
        while True:
            looks = [(ref, uid, cluster.find(ctx, ref)) for ref, uid in objects]
            left = [(ref, found) for ref, uid, found in looks if found and found["metadata"].get("uid") == uid]
            if not left:
                return
            why = "; ".join(f"{ref} is still there{held(found)}" for ref, found in left[:NAMED])
            if waited >= SILENT and why != told:
                ctx.log(f"waiting: {why}")
                told = why
            ctx.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 1.0)
    except TemporaryError as error:
        if not left or ctx.remaining() > 0:
            raise
        more = f"; and {len(left) - NAMED} more" if len(left) > NAMED else ""
        why = "; ".join(f"{ref} is still there{held(found)}" for ref, found in left[:NAMED])
        raise TemporaryError(
            f"{why}{more}", hint=HELD if any(_finalizers(found) for _, found in left) else None
        ) from error


def held(found: Mapping[str, Any]) -> str:
    """What an object that was deleted waits for."""
    finalizers = _finalizers(found)
    if finalizers:
        inside = "".join(f" ({shorten(text, 300)})" for text in _inside(found))
        return ": it waits for " + shorten(", ".join(map(str, finalizers)), 300) + inside
    return ": it is being terminated" if found["metadata"].get("deletionTimestamp") else ""


def _finalizers(found: Mapping[str, Any]) -> Any:
    return found["metadata"].get("finalizers") or (found.get("spec") or {}).get("finalizers")


def _inside(found: Mapping[str, Any]) -> Iterator[str]:
    """What is left in a namespace that is being deleted, as its controller says it."""
    if found.get("kind") == "Namespace":
        for name in ("NamespaceContentRemaining", "NamespaceFinalizersRemaining"):
            said = workload.condition(found, name) or {}
            if said.get("status") == "True" and said.get("message"):
                yield str(said["message"])
