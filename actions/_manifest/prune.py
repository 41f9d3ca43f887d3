"""What an apply prunes: objects that carry the label, that `runbook` applied, and that the set no longer names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube import fields, kinds
from runbook.actions._kube.cluster import MANAGER, Cluster, ForbiddenError, MissingError
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._manifest.look import Seen
from runbook.contract import Context

PRUNED = (
    *(kind for kind in kinds.KNOWN if kind.kind in ("ConfigMap", "Secret", "Service", "Deployment", "StatefulSet")),
    *(kind for kind in kinds.KNOWN if kind.kind in ("DaemonSet", "Job", "HorizontalPodAutoscaler")),
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("batch", "v1", "cronjobs", "CronJob"),
    Kind("networking.k8s.io", "v1", "ingresses", "Ingress"),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
)
"""Looked through besides the kinds of the set."""

KEPT = frozenset({"Namespace", "PersistentVolumeClaim", "PersistentVolume", "CustomResourceDefinition"})
"""Never pruned: with them goes what others keep in them, and no undo brings that back."""


@dataclass(frozen=True, slots=True)
class Stray:
    """An object that is to go."""

    ref: Ref
    name: str
    live: Mapping[str, Any]

    @property
    def title(self) -> str:
        """`ConfigMap/old`."""
        return f"{self.ref.kind.title}/{self.ref.name}"


def looked_through(seen: Iterable[Seen]) -> list[Kind]:
    """The kinds in which there may be something to prune."""
    used = [one.ref.kind for one in seen if one.served]
    return [kind for kind in dict.fromkeys([*PRUNED, *used]) if is_pruned(kind)]


def is_pruned(kind: Kind) -> bool:
    """May objects of this kind be pruned?"""
    return kind.namespaced and kind.kind not in KEPT


def strays(cluster: Cluster, ctx: Context, seen: list[Seen], namespace: str, selector: str) -> list[Stray]:
    """The objects of the namespace that an apply of the set prunes. Kinds that may not be listed are left."""
    wanted = {(one.ref.kind.group, one.ref.kind.kind, one.ref.name) for one in seen if one.ref.namespace == namespace}
    found: dict[tuple[str, str, str], Stray] = {}
    for kind in looked_through(seen):
        try:
            listed = cluster.select(ctx, Ref(kind, namespace), selector)
        except (ForbiddenError, MissingError) as error:
            ctx.log(f"warning: not pruned: {error.message}")
            continue
        for live in listed:
            metadata = live["metadata"]
            key = kind.group, kind.kind, str(metadata["name"])
            if key in wanted or key in found or metadata.get("deletionTimestamp"):
                continue
            ref = Ref(kind, namespace, key[2])
            stray = Stray(ref, cluster.name(ref), live)
            if any(owner.get("controller") for owner in metadata.get("ownerReferences") or ()):
                continue  # its controller would make it again; it goes with its owner
            if fields.owned(live, MANAGER):
                found[key] = stray
            else:
                ctx.log(f"not pruned: {stray.title} has the label, and was not applied by runbook")
    return list(found.values())


def unlabelled(seen: Iterable[Seen], selector: str) -> list[str]:
    """Objects of the set that the selector does not match: a later apply could not prune them. Simple rules only."""
    rules = [re.fullmatch(r"([^=!, ]+)\s*==?\s*([^=!, ]*)", part.strip()) for part in selector.split(",")]
    if not all(rules):
        return []
    pairs = [(rule[1], rule[2]) for rule in rules if rule]
    return [
        one.title
        for one in seen
        if is_pruned(one.ref.kind)
        and any((one.item.body["metadata"].get("labels") or {}).get(key) != value for key, value in pairs)
    ]
