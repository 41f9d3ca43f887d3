"""What rolling back and restarting have in common: which kinds roll, and what holds a roll-out up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runbook.actions._kube import revisions
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.workload import on_delete, partition
from runbook.contract import Context, PermanentError


def rolling(cluster: Cluster, ctx: Context, kind: str, namespace: str, name: str) -> Ref:
    """A Deployment, StatefulSet or DaemonSet. PermanentError for other kinds."""
    found = cluster.kind(ctx, kind)
    revisions.kept_as(found)  # says which kinds roll
    return Ref(found, namespace, name)


def refuse_paused(ref: Ref, owner: Mapping[str, Any]) -> None:
    """PermanentError where nothing would come of a new template."""
    if (owner.get("spec") or {}).get("paused"):
        raise PermanentError(f"{ref} is paused", hint="resume it first: a paused Deployment does not roll out")


def held_up(ref: Ref, owner: Mapping[str, Any]) -> Iterator[str]:
    """Why the template alone will not change all pods."""
    if on_delete(owner):
        yield f"{ref} replaces no pod by itself (updateStrategy OnDelete); delete them"
    kept = partition(owner)
    if kept:
        yield f"{ref} keeps its first {kept} pods as they are (updateStrategy partition)"
