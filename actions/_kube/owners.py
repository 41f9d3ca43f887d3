"""Who else writes an object, and will write it again: autoscalers, GitOps tools, the object that controls it.

Nobody is stopped by it. It is said in the plan, and in the log of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.transport import Bounds
from runbook.contract import Context, Observation, PermanentError, TemporaryError

Object = Mapping[str, Any]

ARGO_ID = "argocd.argoproj.io/tracking-id"
"""`<application>:<group>/<kind>:<namespace>/<name>` (Argo CD, resource tracking by annotation)."""
ARGO_NAME = "argocd.argoproj.io/instance"
"""The application (Argo CD, resource tracking by label, where the default label was changed to this one)."""
FLUX = {"kustomize.toolkit.fluxcd.io": "Kustomization", "helm.toolkit.fluxcd.io": "HelmRelease"}
"""The groups in which Flux writes `<group>/name` and `<group>/namespace` on all that it applies."""
FLUX_OFF = "kustomize.toolkit.fluxcd.io/reconcile"
"""`disabled`: Flux leaves the object alone."""


MAKERS = ("ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController")
"""Kinds whose controllers make objects and do not write them again."""


class Warned:
    """For changes: what `expect` warned of stands in the step's log, and beside its diff in a plan."""

    _warnings: tuple[str, ...] = ()

    def warn(self, ctx: Context, sentences: Iterable[str]) -> None:
        """Say each of them, once."""
        self._warnings = tuple(dict.fromkeys(f"warning: {sentence}" for sentence in sentences))
        for line in self._warnings:
            ctx.log(line)

    def preview(self, args: Any, before: Observation, after: Observation, ctx: Context) -> str | None:
        """What was warned of."""
        return "\n".join(self._warnings) or None


def owners(found: Object) -> list[str]:
    """The GitOps tools that mark this object as theirs, and the object that controls it."""
    metadata = found.get("metadata") or {}
    return [*_gitops(metadata), *_controllers(metadata)]


def _gitops(metadata: Object) -> Iterator[str]:
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    argo = str(annotations.get(ARGO_ID) or "").partition(":")[0] or labels.get(ARGO_NAME) or annotations.get(ARGO_NAME)
    if argo:
        yield f"Argo CD (application {argo})"
    if str(annotations.get(FLUX_OFF) or labels.get(FLUX_OFF)).lower() == "disabled":
        return
    for group, kind in FLUX.items():
        for marks in (labels, annotations):
            name = marks.get(f"{group}/name")
            if name:
                where = marks.get(f"{group}/namespace")
                yield f"Flux ({kind} {where + '/' if where else ''}{name})"
                break


def _controllers(metadata: Object) -> Iterator[str]:
    """An operator's object, the Deployment of a ReplicaSet: its controller writes the object anew from its own spec."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") not in MAKERS:
            yield f"{reference.get('kind')} {reference.get('name')}"


def autoscalers(cluster: Cluster, bounds: Bounds, ref: Ref) -> list[str]:
    """The HorizontalPodAutoscalers that set the replica count of an object (KEDA's are such ones, too).

    A user who may not look gets no warning: the right is not needed for the change.
    """
    found: list[str] = []
    with contextlib.suppress(PermanentError, TemporaryError):
        for scaler in cluster.select(bounds, Ref(kinds.AUTOSCALER, ref.namespace)):
            spec = scaler.get("spec") or {}
            target = spec.get("scaleTargetRef") or {}
            group = str(target.get("apiVersion") or "").rpartition("/")[0]
            if (group, target.get("kind"), target.get("name")) == (ref.kind.group, ref.kind.kind, ref.name):
                least, most = spec.get("minReplicas", 1), spec.get("maxReplicas")
                found.append(f"HorizontalPodAutoscaler {scaler['metadata']['name']} ({least} to {most} replicas)")
    return found


def of_fields(ref: Ref, found: Object) -> list[str]:
    """Sentences about who may put the fields of an object back."""
    return [f"{owner} owns {ref}, and may put it back" for owner in owners(found)]


def of_patch(cluster: Cluster, bounds: Bounds, ref: Ref, found: Object, places: Iterable[str]) -> list[str]:
    """Sentences about who may put back what a patch writes at these places (`spec.replicas`)."""
    scalers = autoscalers(cluster, bounds, ref) if "spec.replicas" in places else []
    return [f"{owner} owns the replica count of {ref}, and may set it again" for owner in scalers] + of_fields(
        ref, found
    )


def of_controllers(ref: Ref, found: Object) -> list[str]:
    """The same, of controllers only: what a GitOps tool did not write, it leaves alone."""
    return [f"{owner} controls {ref}, and may put it back" for owner in _controllers(found.get("metadata") or {})]


def of_replicas(cluster: Cluster, bounds: Bounds, ref: Ref, wanted: int | None = None) -> list[str]:
    """Sentences about who sets the replica count of an object. `wanted`: the new count, where it is known."""
    sentences = [
        # "the HPA is suspended while the target's count is 0" (horizontal-pod-autoscale, Implicit maintenance-mode)
        f"{scaler} stands still while {ref} has 0 replicas, and scales again when it has any"
        if wanted == 0
        else f"{scaler} owns the replica count of {ref}, and may set it again"
        for scaler in autoscalers(cluster, bounds, ref)
    ]
    with contextlib.suppress(PermanentError, TemporaryError):
        found = cluster.get(bounds, ref)
        sentences += [f"{owner} owns the replica count of {ref}, and may set it again" for owner in owners(found)]
    return sentences
