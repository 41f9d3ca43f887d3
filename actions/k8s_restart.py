"""k8s.rollout_restart."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube.action import KubeArgs, Right, Rights, named, unnamed
from runbook.actions._kube.cluster import Cluster, ForbiddenError, connect
from runbook.actions._kube.owners import Warned, of_controllers
from runbook.actions._kube.paths import text
from runbook.actions._kube.reasons import effective
from runbook.actions._kube.revisions import RESTARTED_AT, RESTARTED_BY
from runbook.actions._kube.rollout import held_up, refuse_paused, rolling
from runbook.actions._kube.write import write
from runbook.contract import Change, Context, Observation, Outputs, Settled, param

_AT, _BY = (text(("spec", "template", "metadata", "annotations", name)) for name in (RESTARTED_AT, RESTARTED_BY))


@dataclass(frozen=True, kw_only=True)
class RestartArgs(KubeArgs):
    """Parameters of k8s.rollout_restart."""

    kind: str = param("Deployment, StatefulSet or DaemonSet.", default="Deployment")
    name: str = param("Name of the workload.")


class RolloutRestart(Warned, Rights, Change[RestartArgs]):
    """Replace all pods of a Deployment, StatefulSet or DaemonSet, in its own order, by an annotation on its template.

    An undo that contains it restarts once more at its end, so that pods run with what the undo put back.
    """

    name = "k8s.rollout_restart"
    undo = "again"
    returns = {"at": "when, ISO 8601"}

    def __init__(self) -> None:
        self._at: str | None = None
        self._live: dict[str, Any] | None = None

    def rights(self, args: RestartArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        return [("get", ref), ("patch", ref)]

    def observe(self, args: RestartArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        self._live = cluster.get(ctx, ref)
        return named(cluster.name(ref), _restarted(self._live))

    def expect(self, args: RestartArgs, before: Observation, ctx: Context) -> Observation:
        if unnamed(before)[_BY] == ctx.op:
            return before
        cluster = connect(ctx, args.context)
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        live = self._live or cluster.get(ctx, ref)
        refuse_paused(ref, live)
        # Of GitOps tools nothing is said: an annotation that they did not write, they leave alone.
        self.warn(ctx, [*of_controllers(ref, live), *held_up(ref, live)])
        try:  # whether the server would take it; what would come of it is known
            cluster.patch(ctx, ref, _marks(self._time(ctx), ctx.op), "strategic", dry_run=True)
        except ForbiddenError as error:
            self.computed = "computed here, not by the server's dry run: " + error.message
            ctx.log(self.computed)
        return named(cluster.name(ref), {_AT: self._time(ctx), _BY: ctx.op})

    def apply(self, args: RestartArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        at = self._time(ctx)
        ctx.note("at", at)

        def look() -> dict[str, Any] | None:
            live = cluster.get(ctx, ref)
            if _restarted(live)[_BY] == ctx.op:
                return None
            refuse_paused(ref, live)
            version = {"resourceVersion": live["metadata"]["resourceVersion"]}
            return {"metadata": version, **_marks(at, ctx.op)}

        write(ctx, ref, look, lambda body: cluster.patch(ctx, ref, body, "strategic"))

    def outputs(self, args: RestartArgs, before: Observation, after: Observation) -> Outputs:
        return {"at": unnamed(after)[_AT]}

    def settle(
        self, args: RestartArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        # By whom says it all: killed before it noted its moment, an operation has another one when it goes on.
        done = unnamed(now)[_BY] == ctx.op
        return "done" if done else super().settle(args, before, after, now, ctx)

    def effective(self, args: RestartArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return effective(cluster, ctx, rolling(cluster, ctx, args.kind, args.namespace, args.name))

    def _time(self, ctx: Context) -> str:
        """One moment for the whole operation, also after a crash."""
        if self._at is None:
            now = datetime.datetime.now(datetime.UTC)
            self._at = str(ctx.notes.get("at") or now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return self._at


def _marks(at: str, op: str) -> dict[str, Any]:
    return {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: at, RESTARTED_BY: op}}}}}


def _restarted(found: Mapping[str, Any]) -> dict[str, Any]:
    template = (found.get("spec") or {}).get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    return {_AT: annotations.get(RESTARTED_AT), _BY: annotations.get(RESTARTED_BY)}
