"""Who puts back what helm changes: GitOps tools and autoscalers, by the marks on a release's objects.

Flux writes them into what it renders, so that the manifests themselves hold them; Argo CD and operators only onto the
live objects. Nobody is stopped by it, and whoever may not look is not warned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.actions._helm import manifest as manifests
from runbook.actions._helm import records
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.manifest import Rendered
from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.owners import autoscalers, owners
from runbook.contract import Context, PermanentError, TemporaryError

LOOKS = 8
"""Live objects that are looked at, of those that change: workloads first."""
_WORKLOADS = ("Deployment.apps", "StatefulSet.apps", "DaemonSet.apps")
_SHOWN = 3
"""Names in a sentence."""


def warnings(ctx: Context, args: HelmArgs, old: int | None, new: int | str) -> list[str]:
    """Sentences about who may put back what leads from one revision to another (or to a manifest; '': to nothing).

    A request for each revision and each look, and one for the autoscalers.
    """
    found: list[str] = []
    with contextlib.suppress(PermanentError, TemporaryError):
        was = "" if old is None else _manifest(ctx, args, old)
        will = new if isinstance(new, str) else _manifest(ctx, args, new)
        if was is not None and will is not None:
            cluster = connect(ctx, args.context)
            found = list(_owners(cluster, ctx, args, was, will))
            found += list(_scalers(cluster, ctx, args, will))
    return found


def _manifest(ctx: Context, args: HelmArgs, revision: int) -> str | None:
    """None where only helm knows: there it is not worth another helm."""
    found = records.record(ctx, args, revision)
    return None if found is None else str(found["manifest"])


def _owners(cluster: Cluster, ctx: Context, args: HelmArgs, old: str, new: str) -> Iterator[str]:
    found: dict[str, list[str]] = {}

    def add(document: Mapping[str, Any], title: str) -> None:
        for owner in owners(document):
            names = found.setdefault(owner, [])
            names += [title] if title not in names else []

    for text in (old, new):
        for document, item in zip(manifests.documents(text), manifests.objects(text), strict=True):
            add(document, _title(item))
    for item in _changed(old, new):
        with contextlib.suppress(PermanentError, TemporaryError):  # it may not be read, or its kind is not served
            add(cluster.find(ctx, _ref(cluster, ctx, args, item)) or {}, _title(item))
    for owner, names in found.items():
        yield f"{owner} owns {_listed(names)} of release {args.release}, and may put back what helm changes"


def _changed(old: str, new: str) -> Iterable[Rendered]:
    """What is there and changes, or goes."""
    will = {item.identity: item for item in manifests.objects(new)}
    moved = [
        item
        for item in manifests.objects(old)
        if will.get(item.identity) != item and not (item.stays and item.identity not in will)
    ]
    return sorted(moved, key=lambda item: item.kind not in _WORKLOADS)[:LOOKS]


def _scalers(cluster: Cluster, ctx: Context, args: HelmArgs, new: str) -> Iterator[str]:
    """Of workloads whose replica count the new manifest says, changed or not: helm sets it each time."""
    counted = {
        item.identity: item
        for document, item in zip(manifests.documents(new), manifests.objects(new), strict=True)
        if item.kind in _WORKLOADS and (document.get("spec") or {}).get("replicas") is not None
    }
    for namespace in {item.namespace or args.namespace for item in counted.values()}:
        scaled = set()
        for scaler in cluster.select(ctx, Ref(kinds.AUTOSCALER, namespace)):
            target = (scaler.get("spec") or {}).get("scaleTargetRef") or {}
            scaled.add((target.get("kind"), target.get("name")))
        for item in counted.values():
            kind = item.kind.partition(".")[0]
            if (item.namespace or args.namespace) == namespace and (kind, item.name) in scaled:
                ref = _ref(cluster, ctx, args, item)
                for owner in autoscalers(cluster, ctx, ref):
                    yield f"{owner} owns the replica count of {ref}, and may set it again"


def _ref(cluster: Cluster, ctx: Context, args: HelmArgs, item: Rendered) -> Ref:
    kind = cluster.kind(ctx, item.kind)
    return Ref(kind, (item.namespace or args.namespace) if kind.namespaced else "", item.name)


def _title(item: Rendered) -> str:
    return f"{item.kind.partition('.')[0]}/{item.name}"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
