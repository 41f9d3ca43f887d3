"""The revisions of a workload: a Deployment's are its ReplicaSets, the others' are ControllerRevisions.

Rollout undo has no API. As kubectl does it (k8s.io/kubectl/pkg/polymorphichelpers/rollback.go), the pod template of the
chosen revision is put back; unlike there, "previous" never toggles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.patch import applied
from runbook.actions._kube.transport import Bounds
from runbook.actions._kube.workload import counts, images, selector_text
from runbook.contract import PermanentError

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
CHANGE_CAUSE = "kubernetes.io/change-cause"
TEMPLATE_HASH = "pod-template-hash"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
RESTARTED_BY = "runbook/restarted-by"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a workload.

    A workload that is rolled back takes an old revision again and gives it a new number. `origin`: the one under which
    its version first served, as far as the cluster remembers: a Deployment's ReplicaSets keep their earlier numbers in
    the annotation `revision-history`, a ControllerRevision forgets them. A revision came before a version whose `first`
    is above its own `rank` (its first number; where numbers are forgotten, its age: see `by_age`): what an undo brought
    back can be left again. Restarts make new revisions of the same version. `hash` names the template for as long as
    the cluster keeps the revision.
    """

    number: int
    origin: int
    rank: int
    first: int
    numbers: tuple[int, ...]
    template: Mapping[str, Any]
    version: Mapping[str, Any]
    hash: str
    created: str
    cause: str | None

    def shown(self) -> dict[str, Any]:
        """As outputs have it."""
        return {
            "revision": self.number,
            "images": images(self.template),
            "created": self.created,
            "cause": self.cause,
        }


def kept_as(kind: Kind) -> Kind:
    """The kind in which the revisions of a workload are kept. PermanentError where it has none."""
    if kind == kinds.DEPLOYMENT:
        return kinds.REPLICASET
    if kind.group == "apps" and kind.kind in ("StatefulSet", "DaemonSet"):
        return kinds.CONTROLLER_REVISION
    raise PermanentError(f"kind: a {kind.kind} has no revisions; Deployments, StatefulSets and DaemonSets have")


def of(cluster: Cluster, bounds: Bounds, ref: Ref, owner: Object) -> list[Revision]:
    """The revisions that a workload owns, oldest first."""
    selector = selector_text((owner.get("spec") or {}).get("selector"))
    listed = cluster.select(bounds, Ref(kept_as(ref.kind), ref.namespace), selector)
    uid = owner["metadata"].get("uid")
    owned = [
        entry
        for entry in listed
        if any(
            reference.get("uid") == uid and reference.get("controller")
            for reference in entry["metadata"].get("ownerReferences") or ()
        )
    ]
    if ref.kind == kinds.DEPLOYMENT:
        found = [revision for entry in owned if (revision := _of_replicaset(entry)) is not None]
    else:
        found = by_age([_of_controller_revision(entry, owner) for entry in owned])
    found.sort(key=lambda revision: revision.number)
    return [_of_version(revision, found) for revision in found]


def by_age(found: list[Revision]) -> list[Revision]:
    """ControllerRevisions with their ranks; those of which nobody can tell which came first have the same.

    The API server keeps of a birth only its second (creationTimestamp, managedFields). The number tells more as long as
    none was ever given anew: then they are 1, 2, 3 without a gap, as a revision that serves again leaves its own number
    for one above all others (k8s.io/kubernetes/pkg/controller/history).
    """
    if sorted(revision.number for revision in found) == list(range(1, len(found) + 1)):
        return [replace(revision, rank=revision.number, first=revision.number) for revision in found]
    seconds = sorted({revision.created for revision in found})
    ages = [(revision, seconds.index(revision.created)) for revision in found]
    return [replace(revision, rank=age, first=age) for revision, age in ages]


def newest(cluster: Cluster, bounds: Bounds, kind: Kind, namespace: str) -> Mapping[str, int]:
    """By the uid of its workload, the number of the newest ControllerRevision of each, which is the one that serves."""
    found: dict[str, int] = {}
    for entry in cluster.select(bounds, Ref(kinds.CONTROLLER_REVISION, namespace)):
        for reference in entry["metadata"].get("ownerReferences") or ():
            if reference.get("controller") and reference.get("kind") == kind.kind:
                uid = str(reference.get("uid"))
                found[uid] = max(found.get(uid, 0), int(entry.get("revision") or 0))
    return found


def _of_version(revision: Revision, listed: Iterable[Revision]) -> Revision:
    """The same, with what is known of its version."""
    same = [entry for entry in listed if entry.version == revision.version]
    return replace(revision, origin=min(entry.origin for entry in same), first=min(entry.first for entry in same))


def _of_replicaset(found: Object) -> Revision | None:
    metadata = found["metadata"]
    annotations = metadata.get("annotations") or {}
    own = number(annotations.get(REVISION))
    if own is None:
        return None
    earlier = [number(text) for text in str(annotations.get(REVISION_HISTORY) or "").split(",")]
    numbers = tuple(sorted({entry for entry in earlier if entry is not None} | {own}))
    template = plain((found.get("spec") or {}).get("template") or {})
    return Revision(
        number=own,
        origin=numbers[0],
        rank=numbers[0],
        first=numbers[0],
        numbers=numbers,
        template=template,
        version=version(template),
        hash=str((metadata.get("labels") or {}).get(TEMPLATE_HASH) or metadata.get("name")),
        created=str(metadata.get("creationTimestamp") or ""),
        cause=annotations.get(CHANGE_CAUSE),
    )


def _of_controller_revision(found: Object, owner: Object) -> Revision:
    """Its data is a strategic patch of the workload (k8s.io/kubernetes/pkg/controller/history)."""
    metadata = found["metadata"]
    content = applied(owner, found.get("data") or {}, "strategic")
    own = int(found.get("revision") or 0)
    template = plain((content.get("spec") or {}).get("template") or {})
    return Revision(
        number=own,
        origin=own,
        rank=own,
        first=own,
        numbers=(own,),
        template=template,
        version=version(template),
        hash=str(metadata.get("name")),
        created=str(metadata.get("creationTimestamp") or ""),
        cause=(metadata.get("annotations") or {}).get(CHANGE_CAUSE),
    )


def plain(template: Object) -> dict[str, Any]:
    """A pod template without what tells ReplicaSets apart."""
    metadata = {key: value for key, value in (template.get("metadata") or {}).items() if key != "creationTimestamp"}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != TEMPLATE_HASH}
    if labels or "labels" in metadata:
        metadata["labels"] = labels
    return {**template, "metadata": metadata}


def version(template: Object) -> dict[str, Any]:
    """A pod template without the marks of restarts: what is deployed, however often it was restarted."""
    found = plain(template)
    metadata = dict(found["metadata"])
    annotations = metadata.pop("annotations", None) or {}
    left = {key: value for key, value in annotations.items() if key not in (RESTARTED_AT, RESTARTED_BY)}
    return {**found, "metadata": {**metadata, "annotations": left} if left else metadata}


def serving(revisions: Iterable[Revision], owner: Object) -> Revision | None:
    """The revision whose template the workload has now; None before its controller has kept it.

    A ControllerRevision holds the template as it was written once: after an upgrade of the cluster a field may be
    missing that the workload has by default now. What its controller has seen is the newest all the same.
    """
    listed = list(revisions)
    template = plain((owner.get("spec") or {}).get("template") or {})
    same = next((revision for revision in reversed(listed) if revision.template == template), None)
    if same is None and listed and owner.get("kind") in ("StatefulSet", "DaemonSet") and counts(owner).current:
        return listed[-1]
    return same


def previous(revisions: Iterable[Revision], current: Revision | None) -> Revision | None:
    """The newest revision before the current version first served.

    A revision that was itself a way back counts as the one it led to, so that two roll-backs in a row never return to
    the version that the first one left; and a restart is no version. None as well where it is `doubtful`.
    """
    listed = list(revisions)
    if current is None:  # the newest spec is not kept yet: all that there is came before it
        return listed[-1] if listed else None
    return None if doubtful(listed, current) else _before(listed, current)


def doubtful(revisions: Iterable[Revision], current: Revision | None) -> list[Revision]:
    """Revisions that would be the previous one if they came before the current version, which nobody can tell.

    They were made in the same second as it, and were numbered anew since: one may be what it was rolled back from.
    """
    if current is None:
        return []
    listed = list(revisions)
    sure = _before(listed, current)
    return [
        entry
        for entry in listed
        if entry.rank == current.first
        and entry.version != current.version
        and (sure is None or entry.number > sure.number)
    ]


def doubt(equal: Iterable[Revision], current: Revision | None) -> str:
    """A sentence about what is `doubtful`; empty where nothing is."""
    numbers = " and ".join(str(entry.number) for entry in equal)
    if not numbers or current is None:
        return ""
    return (
        f"which revision came before {current.number}, nobody can tell: {numbers} was made in the same second, and"
        " revisions were numbered anew since"
    )


def _before(listed: list[Revision], current: Revision) -> Revision | None:
    """The newest of those that surely came before the current version."""
    return next((entry for entry in reversed(listed) if entry.rank < current.first), None)


def numbered(revisions: Iterable[Revision], wanted: int) -> Revision | None:
    """The revision that has this number, or, where that is remembered, had it before it was rolled back to."""
    listed = list(revisions)
    return next((entry for entry in listed if entry.number == wanted), None) or next(
        (entry for entry in listed if wanted in entry.numbers), None
    )


def number(text: object) -> int | None:
    """An annotation's number, or None."""
    try:
        return int(str(text))
    except ValueError:
        return None
