"""Preflight: which rights a helm needs on the objects of a release, from the manifests that Helm keeps.

What an upgrade will render is not known before its values are; it is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from runbook.actions._helm import manifest as manifests
from runbook.actions._helm.client import HelmArgs
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.preflight import Right, lacks
from runbook.contract import Context


def missing(ctx: Context, args: HelmArgs, old: str, new: str) -> list[str]:
    """Sentences about the rights that are missing to bring the objects of one manifest to another's.

    TemporaryError where nobody could tell.
    """
    cluster = connect(ctx, args.context)
    return lacks(cluster, ctx, args.namespace, lambda: _rights(cluster, ctx, args, old, new), "helm needs it")


def _rights(cluster: Cluster, ctx: Context, args: HelmArgs, old: str, new: str) -> Iterator[Right]:
    """Patch what stays, create what is new, delete what goes (unless it is to be kept)."""
    there = dict(manifests.objects(old))
    wanted = dict(manifests.objects(new))
    for identity in {**there, **wanted}:
        word, namespace, name = identity
        kind = cluster.kind(ctx, word)
        ref = Ref(kind, (namespace or args.namespace) if kind.namespaced else "", name)
        if identity not in there:
            yield "create", Ref(kind, ref.namespace)
        elif identity in wanted:
            yield "patch", ref
        elif not there[identity]:
            yield "delete", ref
