"""Workloads: how far a roll-out is, and which pods belong to it.

Rules as `kubectl rollout` has them (k8s.io/kubectl/pkg/polymorphichelpers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster, ForbiddenError
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.transport import Bounds
from runbook.contract import PermanentError

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """A workload's replicas. `current`: its controller has seen the newest spec."""

    desired: int
    ready: int
    updated: int
    available: int
    total: int
    current: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """`failure`: it will not come to an end by itself."""

    done: bool
    says: str
    failure: str | None = None


def counts(found: Object) -> Counts:
    """The numbers of a Deployment, StatefulSet, DaemonSet or ReplicaSet; what is not there is 0."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    generation = int((found.get("metadata") or {}).get("generation") or 0)
    seen = int(status.get("observedGeneration") or 0) >= generation
    if found.get("kind") == "DaemonSet":
        return Counts(
            desired=int(status.get("desiredNumberScheduled") or 0),
            ready=int(status.get("numberReady") or 0),
            updated=int(status.get("updatedNumberScheduled") or 0),
            available=int(status.get("numberAvailable") or 0),
            total=int(status.get("currentNumberScheduled") or 0),
            current=seen,
        )
    wanted = spec.get("replicas")
    return Counts(
        desired=1 if wanted is None else int(wanted),  # the API's default
        ready=int(status.get("readyReplicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        total=int(status.get("replicas") or 0),
        current=seen,
    )


def rollout(found: Object) -> Rollout:
    """How far the roll-out of a Deployment, StatefulSet or DaemonSet is."""
    kind = str(found.get("kind"))
    if kind not in ("Deployment", "StatefulSet", "DaemonSet"):
        raise PermanentError(f"a {kind} does not roll out; Deployments, StatefulSets and DaemonSets do")
    spec = found.get("spec") or {}
    now = counts(found)
    if kind == "Deployment" and spec.get("paused"):
        return Rollout(done=False, says="it is paused", failure="the roll-out is paused (spec.paused)")
    if not now.current:
        return Rollout(done=False, says="its controller has not seen the newest spec yet")
    progressing = condition(found, "Progressing")
    if progressing and progressing.get("reason") == "ProgressDeadlineExceeded":
        return Rollout(
            done=False, says="no progress", failure=f"ProgressDeadlineExceeded: {progressing.get('message', '')}"
        )
    if on_delete(found):
        return Rollout(done=now.ready == now.desired, says=f"{now.ready} of {now.desired} ready (OnDelete)")
    wanted = to_update(found, now)
    if now.updated < wanted:
        return Rollout(done=False, says=f"{now.updated} of {wanted} updated")
    if now.total > now.desired or (kind == "Deployment" and now.total > now.updated):
        return Rollout(done=False, says=f"{now.total - now.updated} old replicas are still there")
    if now.available < now.desired:
        return Rollout(done=False, says=f"{now.available} of {now.desired} available")
    return Rollout(done=True, says=f"{now.available} of {now.desired} available")


def on_delete(found: Object) -> bool:
    """Does it leave its pods alone until somebody deletes them (updateStrategy OnDelete)?"""
    return ((found.get("spec") or {}).get("updateStrategy") or {}).get("type") == "OnDelete"


def in_order(found: Object) -> bool:
    """Does a StatefulSet wait for each of its pods before it goes on (podManagementPolicy, the default)?"""
    return (found.get("spec") or {}).get("podManagementPolicy") != "Parallel"


def partition(found: Object) -> int:
    """Of a StatefulSet, how many of its first pods keep what they run."""
    strategy = (found.get("spec") or {}).get("updateStrategy") or {}
    return int((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def to_update(found: Object, now: Counts) -> int:
    """How many pods a roll-out replaces."""
    if found.get("kind") == "StatefulSet":
        return max(0, now.desired - partition(found))
    return now.desired


def condition(found: Object, name: str) -> Mapping[str, Any] | None:
    """A condition of the object's status by its type, in any case."""
    for entry in (found.get("status") or {}).get("conditions") or ():
        if str(entry.get("type", "")).lower() == name.lower():
            return dict(entry)
    return None


def images(pod_spec: Object) -> list[str]:
    """The images of a pod template, containers before init containers."""
    spec = pod_spec.get("spec") or {}
    return [
        str(container.get("image", ""))
        for group in ("containers", "initContainers")
        for container in spec.get(group) or ()
    ]


def selector_text(selector: Object | None) -> str:
    """A LabelSelector as the API's query has it."""
    given = selector or {}
    parts = [f"{key}={value}" for key, value in sorted((given.get("matchLabels") or {}).items())]
    for rule in given.get("matchExpressions") or ():
        key, values = rule["key"], ",".join(rule.get("values") or ())
        operator = rule["operator"]
        if operator in ("In", "NotIn"):
            parts.append(f"{key} {operator.lower()} ({values})")
        else:
            parts.append(key if operator == "Exists" else f"!{key}")
    return ",".join(parts)


def pod_selector(found: Object) -> str:
    """The selector of a workload's or a Service's pods. PermanentError where it is empty: it would mean every pod."""
    spec = found.get("spec") or {}
    selector = spec.get("selector")
    if found.get("kind") == "Service":
        selector = {"matchLabels": selector or {}}
    text = selector_text(selector)
    if not text:
        name = (found.get("metadata") or {}).get("name")
        raise PermanentError(f"{found.get('kind')} {name} has no selector: which pods are meant is not known")
    return text


def pods(cluster: Cluster, bounds: Bounds, namespace: str, selector: str) -> list[dict[str, Any]]:
    """Pods that are neither finished nor on their way out, by name."""
    found = cluster.select(bounds, Ref(kinds.POD, namespace), selector)
    return sorted((pod for pod in found if is_live(pod)), key=lambda pod: str(pod["metadata"]["name"]))


def is_live(pod: Object) -> bool:
    """Neither finished nor on its way out."""
    phase = (pod.get("status") or {}).get("phase")
    return not pod["metadata"].get("deletionTimestamp") and phase not in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """The condition, not a label: labels say what someone wrote."""
    found = condition(pod, "Ready")
    return found is not None and found.get("status") == "True"


_STUCK = frozenset(
    {"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"}
)


def is_stuck(pod: Object) -> bool:
    """Waiting will not make it ready."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any(((entry.get("state") or {}).get("waiting") or {}).get("reason") in _STUCK for entry in statuses)


class UnseenPodsError(ForbiddenError):
    """The workload is not at its end yet, and which of its pods never will be cannot be seen."""


def settled(cluster: Cluster, bounds: Bounds, ref: Ref) -> bool:
    """Has the controller done what the spec says, as far as it can? A pod that cannot become ready holds up nothing.

    ForbiddenError where the workload may not be read; UnseenPodsError where it may, and its pods may not.
    """
    found = cluster.get(bounds, ref)
    kind = found.get("kind")
    if ref.kind.group != "apps" or kind not in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
        return True
    if (found.get("spec") or {}).get("paused") or (kind != "ReplicaSet" and rollout(found).done):
        return True
    now = counts(found)
    if not now.current or now.total != now.desired:
        return False
    if kind != "ReplicaSet" and not on_delete(found) and now.updated < to_update(found, now):
        return False
    try:
        live = pods(cluster, bounds, ref.namespace, pod_selector(found))
    except ForbiddenError as error:
        raise UnseenPodsError(error.message, hint=error.hint) from error
    return all(is_ready(pod) or is_stuck(pod) for pod in live)
