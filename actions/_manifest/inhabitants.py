"""Whose objects would go with a namespace or a definition that an undo is to delete, and the rights of such an undo."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.preflight import Right
from runbook.actions._manifest.look import defined_kinds
from runbook.actions._manifest.prune import PRUNED
from runbook.contract import Context

NAMED = 3
"""Of so many the names are told."""


def inhabitants(
    cluster: Cluster, ctx: Context, ref: Ref, body: Mapping[str, Any], ours: Collection[tuple[str, str]]
) -> str:
    """Some of them, for a sentence; '' where there are none. `ours`: kind and name of those that go anyway."""
    names = [
        (place.kind.kind, str(entry["metadata"]["name"]))
        for place in _inside(ref, body)
        for entry in cluster.select(ctx, place, everywhere=not place.namespace)
        if not entry["metadata"].get("ownerReferences")
    ]
    left = [f"{kind}/{name}" for kind, name in names if (kind, name) not in ours and name != "kube-root-ca.crt"]
    return ", ".join(left[:NAMED])


def removing(ref: Ref, body: Mapping[str, Any]) -> Iterator[Right]:
    """The verbs that deleting such an object uses."""
    yield from (("list", place) for place in _inside(ref, body))
    yield from (("get", ref), ("delete", ref))


def making(ref: Ref) -> Iterator[Right]:
    """The verbs that creating an object again, with those who owned its fields, uses."""
    yield from (("get", ref), ("create", Ref(ref.kind, ref.namespace)), ("patch", ref))


def _inside(ref: Ref, body: Mapping[str, Any]) -> Iterator[Ref]:
    """The collections that would go with it."""
    if ref.kind == kinds.NAMESPACE:
        yield from (Ref(kind, ref.name) for kind in PRUNED if kind.kind not in ("ServiceAccount", "Job"))
        yield Ref(Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"), ref.name)
    elif ref.kind.kind == "CustomResourceDefinition":
        made = next(iter(defined_kinds(body)), None)
        if made is not None:
            yield Ref(made)
