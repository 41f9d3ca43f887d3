"""k8s.scale: how many replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runbook.actions import _kube_kinds as kinds
from runbook.actions._kube import Cluster, ConflictError, connect
from runbook.actions._kube_action import KubeArgs, Right, Rights, named, place, unnamed
from runbook.actions._kube_kinds import Ref
from runbook.actions._kube_workload import settled
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, TemporaryError, param

ATTEMPTS = 5
_REPLICAS = "spec.replicas"  # where most kinds keep it; also what k8s.patch calls it
GITOPS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
"""Labels and annotations by which the GitOps tools mark what they own, and put back."""


@dataclass(frozen=True, kw_only=True)
class ScaleArgs(KubeArgs):
    """Parameters of k8s.scale."""

    kind: str = param("Kind of the workload: any with a scale subresource.", default="Deployment")
    name: str = param("Name of the workload.")
    replicas: int = param("Wanted number of replicas.", minimum=0)
    only: Literal["up", "down"] | None = param("`up`: never fewer than there are; `down`: never more.", default=None)


class Scale(Rights, Change[ScaleArgs]):
    """Set a workload's replica count (scale subresource).

    Warns where a HorizontalPodAutoscaler or a GitOps tool owns the count: they will set it again.
    """

    name = "k8s.scale"
    returns = {"previous": "replicas before", "replicas": "replicas now"}

    def rights(self, args: ScaleArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = _scale(args, cluster, ctx)
        return [("get", ref), ("patch", ref)]

    def observe(self, args: ScaleArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _scale(args, cluster, ctx)
        return named(cluster.name(ref), {_REPLICAS: _count(cluster.get(ctx, ref))})

    def expect(self, args: ScaleArgs, before: Observation, ctx: Context) -> Observation:
        had = unnamed(before)[_REPLICAS]
        wanted = _wanted(args, had)
        if wanted != had:
            cluster = connect(ctx, args.context)
            for owner in _owners(cluster, ctx, _scale(args, cluster, ctx)):
                ctx.log(f"warning: {owner} owns the replica count of {args.kind} {args.name}, and may set it again")
        return dict.fromkeys(before, wanted)

    def apply(self, args: ScaleArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = _scale(args, cluster, ctx)
        had = unnamed(before)[_REPLICAS]
        wanted = _wanted(args, had)
        for _ in range(ATTEMPTS):
            live = cluster.get(ctx, ref)
            now = _count(live)
            if now == wanted:
                return
            if now != had:
                raise PermanentError(f"{ref} was scaled by someone else meanwhile: it had {had} and has {now} replicas")
            version = {"resourceVersion": live["metadata"]["resourceVersion"]}
            try:
                cluster.patch(ctx, ref, {"metadata": version, "spec": {"replicas": wanted}}, "merge")
            except ConflictError:
                ctx.checkpoint()
            else:
                return
        raise TemporaryError(f"{ref} was changed by others {ATTEMPTS} times while it was to be scaled")

    def inverse(self, args: ScaleArgs, before: Observation, op: str) -> Call | None:
        context, namespace, kind, object_name = place(next(iter(before)))
        given = {"kind": kind, "name": object_name, "namespace": namespace, "context": context}
        return Call(self.name, {**given, "replicas": unnamed(before)[_REPLICAS]})

    def outputs(self, args: ScaleArgs, before: Observation, after: Observation) -> Outputs:
        return {"previous": unnamed(before)[_REPLICAS], "replicas": unnamed(after)[_REPLICAS]}

    def effective(self, args: ScaleArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return settled(cluster, ctx, Ref(cluster.kind(ctx, args.kind), args.namespace, args.name))


def _scale(args: ScaleArgs, cluster: Cluster, ctx: Context) -> Ref:
    return Ref(cluster.kind(ctx, args.kind), args.namespace, args.name, "scale")


def _wanted(args: ScaleArgs, had: int) -> int:
    if args.only == "up":
        return max(args.replicas, had)
    return min(args.replicas, had) if args.only == "down" else args.replicas


def _count(scale: Mapping[str, Any]) -> int:
    return int((scale.get("spec") or {}).get("replicas") or 0)


def _owners(cluster: Cluster, ctx: Context, ref: Ref) -> list[str]:
    """Who else sets the count. A user who may not look gets no warning: the right is not needed for the change."""
    found: list[str] = []
    with contextlib.suppress(PermanentError):
        for scaler in cluster.select(ctx, Ref(kinds.AUTOSCALER, ref.namespace)):
            target = (scaler.get("spec") or {}).get("scaleTargetRef") or {}
            if target.get("kind") == ref.kind.kind and target.get("name") == ref.name:
                found.append(f"HorizontalPodAutoscaler {scaler['metadata']['name']}")
    with contextlib.suppress(PermanentError):
        found += gitops_owners(cluster.get(ctx, Ref(ref.kind, ref.namespace, ref.name)))
    return found


def gitops_owners(found: Mapping[str, Any]) -> list[str]:
    """The GitOps tools that mark this object as theirs."""
    metadata = found.get("metadata") or {}
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return sorted({tool for mark, tool in GITOPS.items() if mark in marks})
