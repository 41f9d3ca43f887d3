"""Deployments as their real controller treats them (kubernetes, pkg/controller/deployment).

A Deployment has one ReplicaSet per pod template, numbered by the revision annotation; rolling respects maxSurge and
maxUnavailable; an older template that comes back keeps its ReplicaSet and gets a new number.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass, field
from typing import Any

from runbook.sandbox import kinds
from runbook.sandbox.replicas import owner
from runbook.sandbox.world import REVISION, Document, World, now, scrambled

HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = {REVISION, HISTORY, DESIRED, MAXIMUM, "kubectl.kubernetes.io/last-applied-configuration"}


@dataclass
class Progress:
    """When each Deployment (by uid) last got forward: what it looked like, and the monotonic time."""

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)


def deployments(world: World, progress: Progress, speed: float) -> float | None:
    """One pass over all Deployments; returns when the next progress deadline is due (monotonic), or None."""
    due: list[float] = []
    for deployment in world.list(kinds.DEPLOYMENT):
        if deployment["metadata"].get("deletionTimestamp"):
            continue
        meta = deployment["metadata"]
        sets = sorted(world.owned(kinds.REPLICA_SET, meta["namespace"], meta["uid"]), key=revision_of)
        sets = [s for s in sets if not s["metadata"].get("deletionTimestamp")]
        current = next((s for s in sets if _template(s) == deployment["spec"]["template"]), None)
        if not deployment["spec"].get("paused"):
            current, created = _current(world, deployment, sets, current)
            if created:
                due.append(time.monotonic())
                continue
        _scale(world, deployment, sets, current)
        deadline = _status(world, deployment, current, progress, speed)
        if deadline is not None:
            due.append(deadline)
    return min(due, default=None)


def revision_of(item: Document) -> int:
    """The revision annotation of a ReplicaSet or Deployment; 0 when it has none."""
    return int((item["metadata"].get("annotations") or {}).get(REVISION, 0))


def _template(replica_set: Document) -> Document:
    template: Document = copy.deepcopy(replica_set["spec"]["template"])
    template["metadata"]["labels"].pop("pod-template-hash", None)
    return template


def _current(
    world: World, deployment: Document, sets: list[Document], current: Document | None
) -> tuple[Document | None, bool]:
    """The ReplicaSet of the current template, made or renumbered where needed, and whether anything was."""
    newest = max((revision_of(s) for s in sets if s is not current), default=0)
    if current is None:
        _create_set(world, deployment, newest + 1)
        _number(world, kinds.DEPLOYMENT, deployment, newest + 1, keep_history=False)
        return None, True
    if revision_of(current) <= newest:
        current = _number(world, kinds.REPLICA_SET, current, newest + 1, keep_history=True)
        _number(world, kinds.DEPLOYMENT, deployment, newest + 1, keep_history=False)
        return current, True
    if current["spec"].get("minReadySeconds", 0) != deployment["spec"].get("minReadySeconds", 0):
        return _patience(world, deployment, current), True
    if revision_of(deployment) != revision_of(current):
        _number(world, kinds.DEPLOYMENT, deployment, revision_of(current), keep_history=False)
        return current, True
    return current, False


def _number(world: World, kind: kinds.Kind, item: Document, revision: int, *, keep_history: bool) -> Document:
    def write(document: Document) -> None:
        annotations = document["metadata"].setdefault("annotations", {})
        if keep_history and REVISION in annotations:
            annotations[HISTORY] = ",".join(filter(None, [annotations.get(HISTORY), annotations[REVISION]]))
        annotations[REVISION] = str(revision)

    return world.amend(kind, item["metadata"]["namespace"], item["metadata"]["name"], write)


def _patience(world: World, deployment: Document, current: Document) -> Document:
    """The current ReplicaSet takes over how long a pod must be ready; those of older templates keep theirs."""

    def write(document: Document) -> None:
        document["spec"].pop("minReadySeconds", None)
        document["spec"] |= _min_ready(deployment)

    return world.amend(kinds.REPLICA_SET, current["metadata"]["namespace"], current["metadata"]["name"], write)


def _min_ready(deployment: Document) -> dict[str, int]:
    seconds = deployment["spec"].get("minReadySeconds", 0)
    return {"minReadySeconds": seconds} if seconds else {}


def _create_set(world: World, deployment: Document, revision: int) -> None:
    meta, spec = deployment["metadata"], deployment["spec"]
    template = copy.deepcopy(spec["template"])
    digest = scrambled(json.dumps(template, sort_keys=True), 10)
    labels = template["metadata"]["labels"] = {**template["metadata"]["labels"], "pod-template-hash": digest}
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k not in _NOT_COPIED}
    selector = copy.deepcopy(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), "pod-template-hash": digest}
    world.create(
        kinds.REPLICA_SET,
        {
            "metadata": {
                "name": f"{meta['name']}-{digest}",
                "namespace": meta["namespace"],
                "labels": labels,
                "annotations": annotations | {REVISION: str(revision)},
                "ownerReferences": [owner(deployment)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template} | _min_ready(deployment),
            "status": {"replicas": 0},
        },
    )


def _bounds(deployment: Document) -> tuple[int, int]:
    """maxSurge (rounded up) and maxUnavailable (rounded down) as numbers of pods; not both zero."""
    wanted = deployment["spec"]["replicas"]
    strategy = deployment["spec"].get("strategy", {})
    if strategy.get("type") == "Recreate":
        return 0, wanted
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _share(value: int | str, whole: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    exact = int(value.rstrip("%")) * whole / 100
    return math.ceil(exact) if up else math.floor(exact)


def _scale(world: World, deployment: Document, sets: list[Document], current: Document | None) -> None:
    wanted = deployment["spec"]["replicas"]
    surge, _ = _bounds(deployment)
    old = [s for s in sets if current is None or s["metadata"]["name"] != current["metadata"]["name"]]
    if current is None or deployment["spec"].get("paused"):
        active = [s for s in sets if s["spec"]["replicas"]] or ([current] if current else [])
        if len(active) == 1:
            _resize(world, deployment, active[0], wanted, wanted + surge)
        return
    total = sum(s["spec"]["replicas"] for s in [*old, current])
    recreate = deployment["spec"].get("strategy", {}).get("type") == "Recreate"
    size = current["spec"]["replicas"]
    if not any(s["spec"]["replicas"] for s in old) or size > wanted:
        room = wanted - size
    else:
        room = max(0, min(wanted - size, wanted + surge - total))
    if recreate and any(s["spec"]["replicas"] or s["status"].get("replicas") for s in old):
        room = 0
    _resize(world, deployment, current, size + room, wanted + surge)
    _shrink_old(world, deployment, old, current)
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    empty = [s for s in old if not s["spec"]["replicas"] and not s["status"].get("replicas")]
    for replica_set in empty[: max(0, len(empty) - limit)]:
        world.delete(kinds.REPLICA_SET, replica_set["metadata"]["namespace"], replica_set["metadata"]["name"])


def _shrink_old(world: World, deployment: Document, old: list[Document], current: Document) -> None:
    """Unhealthy pods of older templates first, then as many as availability allows."""
    wanted = deployment["spec"]["replicas"]
    surge, unavailable = _bounds(deployment)
    size = current["spec"]["replicas"]
    available = sum(s["status"].get("availableReplicas", 0) for s in [*old, current])
    total = sum(s["spec"]["replicas"] for s in old) + size
    least = wanted - unavailable
    missing = max(0, size - current["status"].get("availableReplicas", 0))
    budget = total - least - missing
    sizes = {s["metadata"]["name"]: s["spec"]["replicas"] for s in old}
    for replica_set in old:
        name = replica_set["metadata"]["name"]
        sick = sizes[name] - replica_set["status"].get("availableReplicas", 0)
        cut = max(0, min(sick, budget))
        sizes[name] -= cut
        budget -= cut
    spare = max(0, min(available - least, budget))
    for replica_set in old:
        name = replica_set["metadata"]["name"]
        cut = min(spare, sizes[name])
        sizes[name] -= cut
        spare -= cut
    for replica_set in old:
        _resize(world, deployment, replica_set, sizes[replica_set["metadata"]["name"]], wanted + surge)


def _resize(world: World, deployment: Document, replica_set: Document, replicas: int, maximum: int) -> None:
    annotations = {DESIRED: str(deployment["spec"]["replicas"]), MAXIMUM: str(maximum)}
    has = replica_set["metadata"].get("annotations") or {}
    if replica_set["spec"]["replicas"] == replicas and all(has.get(k) == v for k, v in annotations.items()):
        return

    def write(document: Document) -> None:
        document["spec"]["replicas"] = replicas
        document["metadata"].setdefault("annotations", {}).update(annotations)

    world.amend(kinds.REPLICA_SET, replica_set["metadata"]["namespace"], replica_set["metadata"]["name"], write)


def _status(
    world: World, deployment: Document, current: Document | None, progress: Progress, speed: float
) -> float | None:
    meta, spec = deployment["metadata"], deployment["spec"]
    sets = list(world.owned(kinds.REPLICA_SET, meta["namespace"], meta["uid"]))
    updated = next((s for s in sets if current and s["metadata"]["name"] == current["metadata"]["name"]), None)
    total, ready, available = (
        sum(s["status"].get(key, 0) for s in sets) for key in ("replicas", "readyReplicas", "availableReplicas")
    )
    new = updated["status"].get("replicas", 0) if updated else 0
    counts = {
        "replicas": total,
        "updatedReplicas": new,
        "readyReplicas": ready,
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(total, spec["replicas"]) - available),
    }
    status: dict[str, Any] = {"observedGeneration": meta["generation"]}
    status |= {key: value for key, value in counts.items() if value}
    status["terminatingReplicas"] = sum(s["status"].get("terminatingReplicas", 0) for s in sets)
    surely = available >= spec["replicas"] - _bounds(deployment)[1]
    complete = new == total == available == spec["replicas"] and updated is not None
    progressing, deadline = _progressing(deployment, counts, updated, progress, speed, complete=complete)
    conditions = [
        _condition(
            deployment,
            "Available",
            surely,
            "MinimumReplicas" + ("Available" if surely else "Unavailable"),
            f"Deployment {'has' if surely else 'does not have'} minimum availability.",
        ),
    ]
    if progressing is not None:
        conditions.append(progressing)
    status["conditions"] = conditions
    if deployment.get("status") != status:
        world.update_status(kinds.DEPLOYMENT, deployment, **status)
    return deadline


def _progressing(
    deployment: Document,
    counts: dict[str, int],
    updated: Document | None,
    progress: Progress,
    speed: float,
    *,
    complete: bool,
) -> tuple[dict[str, Any] | None, float | None]:
    """The Progressing condition, and when it turns into ProgressDeadlineExceeded (monotonic)."""
    uid, clock = deployment["metadata"]["uid"], time.monotonic()
    name = updated["metadata"]["name"] if updated else deployment["metadata"]["name"]
    was = next((c for c in deployment.get("status", {}).get("conditions") or [] if c["type"] == "Progressing"), None)
    if deployment["spec"].get("paused"):
        progress.seen.pop(uid, None)
        return _condition(deployment, "Progressing", None, "DeploymentPaused", "Deployment is paused"), None
    if complete:
        progress.seen.pop(uid, None)
        text = f'ReplicaSet "{name}" has successfully progressed.'
        return _condition(deployment, "Progressing", True, "NewReplicaSetAvailable", text), None
    if was is not None and was["reason"] == "NewReplicaSetAvailable" and f'"{name}"' in was["message"]:
        return was, None  # a finished roll-out that lost pods, or was scaled, does not start anew
    looks = json.dumps([name, counts["updatedReplicas"], counts["readyReplicas"], counts["availableReplicas"]])
    if progress.seen.get(uid, ("", 0.0))[0] != looks:
        progress.seen[uid] = (looks, clock)
    since = progress.seen[uid][1]
    deadline = since + deployment["spec"].get("progressDeadlineSeconds", 600) / speed
    if clock >= deadline:
        text = f'ReplicaSet "{name}" has timed out progressing.'
        return _condition(deployment, "Progressing", False, "ProgressDeadlineExceeded", text), None
    text = f'ReplicaSet "{name}" is progressing.'
    return _condition(deployment, "Progressing", True, "ReplicaSetUpdated", text), deadline


def _condition(deployment: Document, name: str, holds: bool | None, reason: str, message: str) -> dict[str, Any]:
    status = {True: "True", False: "False", None: "Unknown"}[holds]
    was = next((c for c in deployment.get("status", {}).get("conditions") or [] if c["type"] == name), None)
    if was is not None and (was["status"], was["reason"], was["message"]) == (status, reason, message):
        return dict(was)
    turned = was["lastTransitionTime"] if was is not None and was["status"] == status else now()
    made = {"type": name, "status": status, "lastUpdateTime": now(), "lastTransitionTime": turned}
    return made | {"reason": reason, "message": message}
