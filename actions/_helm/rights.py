"""Preflight: which rights a helm needs on the objects of a release, from what is deployed and what is to be.

A helm that lacks one in the middle of its work leaves the release failed, and some lacks it does not even tell: it
skips the object, or waits until its time is over. What each version asks for was tried on an API server, right by
right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from runbook.actions._helm import client, records
from runbook.actions._helm import manifest as manifests
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.manifest import Rendered
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.preflight import Right, lacks
from runbook.contract import Context


@dataclass(frozen=True, kw_only=True)
class Way:
    """From the manifest that is deployed to the one that is to be ('': nothing), with the hooks that run on the way.

    `server_side`: Helm 4 applies on the server (it does where the release was made so, or where it is to take fields
    over), which patches every object.
    `prunes`: Helm forgets its oldest revision. `defines`: custom resource definitions that it makes first.
    """

    old: str
    new: str
    hooks: list[Rendered]
    server_side: bool = False
    prunes: bool = False
    defines: str = ""


def missing(ctx: Context, args: HelmArgs, way: Way) -> list[str]:
    """Sentences about the rights that are missing to go that way. TemporaryError where nobody could tell."""
    cluster = connect(ctx, args.context)
    waits = _Waits(client.known_version(ctx)[0])
    return lacks(cluster, ctx, args.namespace, lambda: _rights(cluster, ctx, args, way, waits), "helm needs it")


def server_side(ctx: Context, args: HelmArgs, revision: int | None, *, force_conflicts: bool = False) -> bool:
    """Was this revision applied on the server? What follows it is, too, and what goes back to it. None: the first.

    `force_conflicts`: see `client.takeover`.
    """
    if client.known_version(ctx)[0] < 4 or revision is None or force_conflicts:
        return client.known_version(ctx)[0] >= 4
    kept = records.record(ctx, args, revision)
    if kept is not None:
        return bool(kept.get("apply_method") == "ssa")
    done = client.helm(ctx, args, "get", "metadata", args.release, "--revision", str(revision), "--output", "json")
    if done.rc != 0:
        raise client.said(done, f"helm get metadata {args.release}")
    return bool(json.loads(done.stdout).get("applyMethod") == "ssa")


def _rights(cluster: Cluster, ctx: Context, args: HelmArgs, way: Way, waits: _Waits) -> Iterator[Right]:
    """Patch what changes, create what is new, delete what goes (unless it is to be kept), make the hooks anew."""
    storage = client.storage(ctx)
    if way.prunes and storage is not None:
        yield "delete", Ref(storage, args.namespace)
    there, wanted = ({one.identity: one for one in manifests.objects(text)} for text in (way.old, way.new))

    def ref(item: Rendered) -> Ref:
        kind = cluster.kind(ctx, item.kind)
        return Ref(kind, (item.namespace or args.namespace) if kind.namespaced else "", item.name)

    for definition in manifests.objects(way.defines):
        yield "get", ref(definition)
        yield "create", Ref(ref(definition).kind)
    coming = set(manifests.defined(way.defines))  # nobody can be asked about kinds that are not there
    for identity, item in wanted.items():
        if item.kind in coming:
            continue
        one, had = ref(item), there.get(identity)
        yield "get", one
        if had is None:
            yield "create", Ref(one.kind, one.namespace)
        if way.server_side or (had is not None and had.content != item.content):
            yield "patch", one
        yield from waits.ready(cluster, ctx, one)
    for identity, item in there.items():
        if identity not in wanted and not item.stays:
            yield "get", ref(item)
            yield "delete", ref(item)
            if not way.new:
                yield from waits.gone(ref(item))
    for hook in way.hooks:
        one = ref(hook)
        yield "get", one
        yield "delete", one  # of the time before, or when it has ended
        yield "create", Ref(one.kind, one.namespace)
        if way.server_side:
            yield "patch", one
        yield from waits.hook(one)


@dataclass(frozen=True)
class _Waits:
    """What helm looks at while it waits (`--wait`), by its major version: the objects, and the pods that they make."""

    major: int

    def ready(self, cluster: Cluster, ctx: Context, ref: Ref) -> Iterator[Right]:
        if self.major >= 4:
            yield from self._watched(ref)
        for made in _MADE[min(self.major, 4)].get(ref.kind.kind, ()) if ref.kind.group in ("", "apps") else ():
            yield "list", Ref(cluster.kind(ctx, made), ref.namespace)

    def gone(self, ref: Ref) -> Iterator[Right]:
        return self._watched(ref) if self.major >= 4 else iter(())

    def hook(self, ref: Ref) -> Iterator[Right]:
        return self._watched(ref) if self.major >= 4 or ref.kind.kind in ("Job", "Pod") else iter(())

    @staticmethod
    def _watched(ref: Ref) -> Iterator[Right]:
        for verb in ("list", "watch"):
            yield verb, Ref(ref.kind, ref.namespace)


_MADE = {
    3: {"Deployment": ("replicasets.apps",), "ReplicaSet": ("pods",), "ReplicationController": ("pods",)},
    4: {"Deployment": ("replicasets.apps",), "ReplicaSet": ("pods",), "StatefulSet": ("pods",)},
}
