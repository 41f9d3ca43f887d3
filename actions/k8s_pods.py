"""k8s.delete_pods: the restart that needs no change of a spec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runbook.actions._kube import kinds, workload
from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.reasons import effective, looked
from runbook.contract import Change, Context, Observation, Outputs, PermanentError, Settled, param


@dataclass(frozen=True, kw_only=True)
class DeletePodsArgs(KubeArgs):
    """Parameters of k8s.delete_pods."""

    deployment: str | None = param("Deployment whose pods are deleted.", default=None)
    selector: str | None = param("Label selector, in place of a deployment; never empty.", default=None)


class DeletePods(Rights, Change[DeletePodsArgs]):
    """Delete pods, so that their controller makes new ones: no replica count that a crash could leave at zero.

    Exactly those that were seen, by uid. An undo that contains it deletes once more at its end, so that pods run with
    what the undo put back.
    """

    name = "k8s.delete_pods"
    undo = "again"
    returns = {"deleted": "names of the pods"}

    def check(self, args: DeletePodsArgs) -> Iterator[str]:
        if (args.deployment is None) == (args.selector is None):
            yield "deployment, selector: give one of them"
        elif args.selector is not None and not args.selector.strip():
            yield "selector: empty, it would mean every pod"

    def rights(self, args: DeletePodsArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        if args.deployment is not None:
            yield "get", Ref(kinds.DEPLOYMENT, args.namespace, args.deployment)
        yield "list", Ref(kinds.POD, args.namespace)
        yield "delete", Ref(kinds.POD, args.namespace)

    def observe(self, args: DeletePodsArgs, ctx: Context) -> Observation:
        for problem in self.check(args):
            raise PermanentError(problem)
        cluster = connect(ctx, args.context)
        found = workload.pods(cluster, ctx, args.namespace, _selector(args, cluster, ctx))
        names = [
            f"{cluster.name(Ref(kinds.POD, args.namespace, pod['metadata']['name']))}@{pod['metadata']['uid']}"
            for pod in found
        ]
        meant = ctx.notes.get("pods")  # those that came since an earlier attempt, or a crash in mid-way, are left
        return {name: "there" for name in names if meant is None or name in meant}

    def expect(self, args: DeletePodsArgs, before: Observation, ctx: Context) -> Observation:
        return dict.fromkeys(before)

    def apply(self, args: DeletePodsArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        if "pods" not in ctx.notes:
            ctx.note("pods", list(before))
        for number, entry in enumerate(before):
            name, uid = _pod(entry)
            cluster.delete(ctx, Ref(kinds.POD, args.namespace, name), uid)
            ctx.progress(number + 1, len(before))

    def outputs(self, args: DeletePodsArgs, before: Observation, after: Observation) -> Outputs:
        return {"deleted": [_pod(entry)[0] for entry in before]}

    def settle(
        self, args: DeletePodsArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        left = [entry for entry in before if entry in now]
        if not left:
            return "done"
        return "not_done" if len(left) == len(before) else "partial"

    def effective(self, args: DeletePodsArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        if args.deployment is not None:
            return effective(cluster, ctx, Ref(kinds.DEPLOYMENT, args.namespace, args.deployment))

        def ready() -> bool:
            found = workload.pods(cluster, ctx, args.namespace, args.selector or "")
            return all(workload.is_ready(pod) or workload.is_stuck(pod) for pod in found)

        return looked(ctx, f"whether the pods of {args.selector!r} are ready", ready)


def _selector(args: DeletePodsArgs, cluster: Cluster, ctx: Context) -> str:
    if args.selector is not None:
        return args.selector
    return workload.pod_selector(cluster.get(ctx, Ref(kinds.DEPLOYMENT, args.namespace, args.deployment or "")))


def _pod(entry: str) -> tuple[str, str]:
    """Name and uid of a pod out of `k8s:context/namespace/Pod/name@uid`."""
    name, _, uid = entry.rpartition("/")[2].rpartition("@")
    return name, uid
