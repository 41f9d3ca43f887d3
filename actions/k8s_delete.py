"""k8s.delete: an object goes, exactly the one that was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runbook.actions._kube import kinds
from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.owners import Warned, of_fields
from runbook.actions._manifest.put import gone, held
from runbook.actions._manifest.users import sentence, users
from runbook.contract import Change, Context, Observation, Outputs, PermanentError, Settled, param

ENDING = "being deleted"
"""The state of an object that was deleted and waits for its finalizers."""

PROPAGATION = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan"}


@dataclass(frozen=True, kw_only=True)
class DeleteArgs(KubeArgs):
    """Parameters of k8s.delete."""

    kind: str = param("Kind of the object: any that the API serves, as kubectl spells it (`job`, `ConfigMap`).")
    name: str = param("Name of the object.")
    optional: bool = param("An object that is not there is no error.", default=True)
    propagation: Literal["background", "foreground", "orphan"] = param(
        "What becomes of the objects that it owns: they go after it, before it, or stay.", default="background"
    )


class Delete(Warned, Rights, Change[DeleteArgs]):
    """Delete an object, and wait until it is gone. What it held cannot be brought back: `k8s.export` keeps a copy.

    Only the object that was seen, by its uid: never one that was made anew under the same name.
    """

    name = "k8s.delete"
    irreversible = True
    returns = {"existed": "whether it was there"}

    def check(self, args: DeleteArgs) -> Iterator[str]:
        if not args.name.strip():
            yield "name: empty, it would mean every object of the kind"

    def rights(self, args: DeleteArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = _ref(args, cluster, ctx)
        return [("get", ref), ("delete", ref)]

    def observe(self, args: DeleteArgs, ctx: Context) -> Observation:
        for problem in self.check(args):
            raise PermanentError(problem)
        cluster = connect(ctx, args.context)
        ref = _ref(args, cluster, ctx)
        found = cluster.find(ctx, ref) if args.optional or ctx.notes.get("seen") else cluster.get(ctx, ref)
        if found is None:
            return {}
        metadata = found["metadata"]
        state = f"{ENDING}{held(found)}" if metadata.get("deletionTimestamp") else "there"
        return {f"{cluster.name(ref)}@{metadata['uid']}": state}

    def expect(self, args: DeleteArgs, before: Observation, ctx: Context) -> Observation:
        if before:
            cluster = connect(ctx, args.context)
            ref = _ref(args, cluster, ctx)
            found = cluster.find(ctx, ref)
            if found is not None:
                self.warn(ctx, _consequences(cluster, ctx, ref, found))
        return dict.fromkeys(before)

    def apply(self, args: DeleteArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = _ref(args, cluster, ctx)
        for name, state in before.items():
            uid = name.rpartition("@")[2]
            ctx.note("seen", uid)  # a second attempt does not complain that it is gone
            if state == "there":
                cluster.delete(ctx, ref, uid, PROPAGATION[args.propagation])
            gone(cluster, ctx, (ref, uid))

    def outputs(self, args: DeleteArgs, before: Observation, after: Observation) -> Outputs:
        return {"existed": bool(before)}

    def settle(
        self, args: DeleteArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        left = [name for name in before if now.get(name) is not None]
        if not left:
            return "done"  # what bears its name now, if anything, is another object
        return "not_done" if all(now[name] == before[name] for name in left) else "partial"


def _ref(args: DeleteArgs, cluster: Cluster, ctx: Context) -> Ref:
    return Ref(cluster.kind(ctx, args.kind), args.namespace, args.name)


def _consequences(cluster: Cluster, ctx: Context, ref: Ref, found: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about what else a deletion means."""
    if ref.kind == kinds.NAMESPACE:
        yield f"all that is in namespace {ref.name!r} goes with it"
    if ref.kind.kind == "CustomResourceDefinition":
        yield f"every object of {ref.name} in every namespace goes with it"
    yield from of_fields(ref, found)
    for use in users(cluster, ctx, [ref]):
        yield sentence(use)
    finalizers = found["metadata"].get("finalizers")
    if finalizers:
        yield f"{ref} is gone only when its finalizers are: {', '.join(map(str, finalizers))}"
