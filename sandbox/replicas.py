"""ReplicaSets as their real controller treats them: pods made and deleted, ready pods counted."""

from __future__ import annotations

import copy
import time
from typing import Any

from runbook.sandbox import kinds
from runbook.sandbox.world import Document, World


def replica_sets(world: World, ready: dict[str, float], speed: float) -> float | None:
    """One pass over all ReplicaSets: as many pods as asked for, and the counts in their status.

    `ready`: since when each pod (by uid) is ready, monotonic. Returns when the next ready pod has been so for long
    enough to be available (monotonic), or None.
    """
    due: list[float] = []
    for replica_set in world.list(kinds.REPLICA_SET):
        meta, spec = replica_set["metadata"], replica_set["spec"]
        pods = list(world.owned(kinds.POD, meta["namespace"], meta["uid"]))
        living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        if not meta.get("deletionTimestamp"):
            living += [_create_pod(world, replica_set) for _ in range(spec["replicas"] - len(living))]
            living.sort(key=_worth)
            while len(living) > spec["replicas"]:
                world.delete(kinds.POD, meta["namespace"], living.pop(0)["metadata"]["name"])
        since = [_since(pod, ready) for pod in living if _ready(pod)]
        proven = [at + spec.get("minReadySeconds", 0) / speed for at in since]
        waits = [at for at in proven if at > time.monotonic()]
        due += waits
        counts = {
            "fullyLabeledReplicas": len(living),
            "readyReplicas": len(since),
            "availableReplicas": len(since) - len(waits),
        }
        status: dict[str, Any] = {"replicas": len(living)} | {key: value for key, value in counts.items() if value}
        status["terminatingReplicas"] = len(pods) - sum(not p["metadata"].get("deletionTimestamp") for p in pods)
        status["observedGeneration"] = meta["generation"]
        if replica_set.get("status") != status:
            fresh = world.get(kinds.REPLICA_SET, meta["namespace"], meta["name"])
            world.update_status(kinds.REPLICA_SET, fresh, **status)
    return min(due, default=None)


def _since(pod: Document, ready: dict[str, float]) -> float:
    return ready.setdefault(pod["metadata"]["uid"], time.monotonic())


def _create_pod(world: World, replica_set: Document) -> Document:
    template = copy.deepcopy(replica_set["spec"]["template"])
    meta = replica_set["metadata"]
    return world.create(
        kinds.POD,
        {
            "metadata": template["metadata"]
            | {
                "generateName": meta["name"] + "-",
                "namespace": meta["namespace"],
                "ownerReferences": [owner(replica_set)],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        },
    )


def _ready(pod: Document) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _worth(pod: Document) -> tuple[bool, str]:
    """Pods that are not ready are deleted first."""
    return _ready(pod), pod["metadata"]["name"]


def owner(item: Document) -> dict[str, Any]:
    """The owner reference to a controller."""
    made = {"apiVersion": item["apiVersion"], "kind": item["kind"], "name": item["metadata"]["name"]}
    return made | {"uid": item["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}
