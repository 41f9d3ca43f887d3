"""k8s.scale: how many replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from runbook.actions._kube.action import KubeArgs, Right, Rights, named, place, unnamed
from runbook.actions._kube.cluster import Cluster, ForbiddenError, MissingError, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.owners import Warned, of_replicas
from runbook.actions._kube.reasons import effective
from runbook.actions._kube.write import write
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, param

MOST = 2**31 - 1  # replicas are an int32
_REPLICAS = "spec.replicas"  # where most kinds keep it; also what k8s.patch calls it


@dataclass(frozen=True, kw_only=True)
class ScaleArgs(KubeArgs):
    """Parameters of k8s.scale."""

    kind: str = param("Kind of the workload: any with a scale subresource.", default="Deployment")
    name: str = param("Name of the workload.")
    replicas: int = param("Wanted number of replicas.", minimum=0, maximum=MOST)
    only: Literal["up", "down"] | None = param("`up`: never fewer than there are; `down`: never more.", default=None)


class Scale(Warned, Rights, Change[ScaleArgs]):
    """Set a workload's replica count (scale subresource).

    Warns where a HorizontalPodAutoscaler, a GitOps tool or a controller owns the count: they will set it again.
    """

    name = "k8s.scale"
    returns = {"previous": "replicas before", "replicas": "replicas now"}

    def rights(self, args: ScaleArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = _scale(args, cluster, ctx)
        return [("get", ref), ("patch", ref)]

    def observe(self, args: ScaleArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _scale(args, cluster, ctx)
        return named(cluster.name(ref), {_REPLICAS: _count(_read(cluster, ctx, ref))})

    def expect(self, args: ScaleArgs, before: Observation, ctx: Context) -> Observation:
        had = unnamed(before)[_REPLICAS]
        wanted = _wanted(args, had)
        if wanted == had:
            return before
        cluster = connect(ctx, args.context)
        ref = _scale(args, cluster, ctx)
        try:
            wanted = _count(cluster.patch(ctx, ref, {"spec": {"replicas": wanted}}, "merge", dry_run=True))
        except ForbiddenError as error:
            self.computed = "computed here, not by the server's dry run: " + error.message
            ctx.log(self.computed)
        self.warn(ctx, of_replicas(cluster, ctx, replace(ref, subresource=""), wanted))
        return dict.fromkeys(before, wanted)

    def apply(self, args: ScaleArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = _scale(args, cluster, ctx)
        had = unnamed(before)[_REPLICAS]
        wanted = _wanted(args, had)

        def look() -> dict[str, Any] | None:
            live = _read(cluster, ctx, ref)
            now = _count(live)
            if now not in (had, wanted):
                raise PermanentError(f"{ref} was scaled by someone else meanwhile: it had {had} and has {now} replicas")
            version = {"resourceVersion": live["metadata"]["resourceVersion"]}
            return None if now == wanted else {"metadata": version, "spec": {"replicas": wanted}}

        write(ctx, ref, look, lambda body: cluster.patch(ctx, ref, body, "merge"))

    def inverse(self, args: ScaleArgs, before: Observation, op: str) -> Call | None:
        context, namespace, kind, object_name = place(next(iter(before)))
        given = {"kind": kind, "name": object_name, "namespace": namespace, "context": context}
        return Call(self.name, {**given, "replicas": unnamed(before)[_REPLICAS]})

    def outputs(self, args: ScaleArgs, before: Observation, after: Observation) -> Outputs:
        return {"previous": unnamed(before)[_REPLICAS], "replicas": unnamed(after)[_REPLICAS]}

    def effective(self, args: ScaleArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return effective(cluster, ctx, replace(_scale(args, cluster, ctx), subresource=""))


def _scale(args: ScaleArgs, cluster: Cluster, ctx: Context) -> Ref:
    return Ref(cluster.kind(ctx, args.kind), args.namespace, args.name, "scale")


def _read(cluster: Cluster, ctx: Context, ref: Ref) -> dict[str, Any]:
    """The object's Scale. PermanentError that tells a kind without one from an object that is not there."""
    try:
        return cluster.get(ctx, ref)
    except MissingError:
        # The same 404 for both. The object itself is missing, too, or it is there and has no such subresource.
        with contextlib.suppress(ForbiddenError):
            cluster.get(ctx, replace(ref, subresource=""))
            raise PermanentError(
                f"kind: a {ref.kind.kind} has no replica count to set (no scale subresource)"
            ) from None
        raise


def _wanted(args: ScaleArgs, had: int) -> int:
    if args.only == "up":
        return max(args.replicas, had)
    return min(args.replicas, had) if args.only == "down" else args.replicas


def _count(scale: Mapping[str, Any]) -> int:
    return int((scale.get("spec") or {}).get("replicas") or 0)
