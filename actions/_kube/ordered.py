"""The pods that a StatefulSet waits for in vain.

In its ordered way (podManagementPolicy OrderedReady) it replaces nothing while a pod is not ready: also when that pod
has a template that was taken back since (Kubernetes: StatefulSets, Forced rollback).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbook.actions._kube import kinds, workload
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Ref
from runbook.contract import Context, Observation

REVISION = "controller-revision-hash"
_KEY = "pods in the way of "


def state(cluster: Cluster, ctx: Context, owner: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """The pods, as a place of an observation: under a name of its own for each revision that is to serve."""
    return {f"{_KEY}{revision}": sorted(f"{name}@{uid}" for name, uid in _pods(cluster, ctx, owner, revision).items())}


def cleared(revision: str) -> dict[str, Any]:
    """The same place when none is left."""
    return {f"{_KEY}{revision}": []}


def clear(cluster: Cluster, ctx: Context, owner: Mapping[str, Any], revision: str) -> None:
    """Delete exactly these."""
    for name, uid in _pods(cluster, ctx, owner, revision).items():
        cluster.delete(ctx, Ref(kinds.POD, str(owner["metadata"].get("namespace") or ""), name), uid)


def told(now: Observation, before: Observation) -> Observation:
    """An observation in which such pods are there or not: which of them, moves by itself."""
    return {name: before.get(name, found) if _KEY in name and found else found for name, found in now.items()}


def _pods(cluster: Cluster, ctx: Context, owner: Mapping[str, Any], revision: str) -> dict[str, str]:
    """Name and uid of those that are not ready and have another revision's template."""
    metadata = owner["metadata"]
    live = workload.pods(cluster, ctx, str(metadata.get("namespace") or ""), workload.pod_selector(owner))
    return {
        str(pod["metadata"]["name"]): str(pod["metadata"]["uid"])
        for pod in live
        if not workload.is_ready(pod)
        and (pod["metadata"].get("labels") or {}).get(REVISION) != revision
        and any(entry.get("uid") == metadata.get("uid") for entry in pod["metadata"].get("ownerReferences") or ())
    }
