"""The simulated world's state: objects with resource versions, and a history from which watches are answered.

Every object is replaced, never changed in place: who holds one holds a snapshot.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from runbook.sandbox import statuses
from runbook.sandbox.kinds import CUSTOM, DEPLOYMENT, NAMESPACE, POD, Kind

Document = dict[str, Any]
REVISION = "deployment.kubernetes.io/revision"
EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one object, as watches tell it. `before` is None for the first version."""

    version: int
    type: EventType
    kind: Kind
    before: Document | None
    after: Document


class World:
    """The objects, by kind, namespace and name. All methods are safe to call from any thread."""

    def __init__(self, seed: str = "runbook") -> None:
        self.changed = threading.Condition(threading.RLock())
        self.stopped = False
        self.custom: tuple[Kind, ...] = ()  # custom kinds whose definition is installed
        self.unmodelled: list[str] = []
        self._objects: dict[Kind, dict[tuple[str, str], Document]] = {}
        self._history: list[Change] = []
        self._version = 100
        self._named = 0
        self._seed = uuid.uuid5(uuid.NAMESPACE_OID, seed)

    @property
    def version(self) -> int:
        """The newest resource version."""
        return self._version

    def get(self, kind: Kind, namespace: str, name: str) -> Document:
        """One object. StatusError 404."""
        with self.changed:
            found = self._objects.get(kind, {}).get((namespace, name))
        if found is None:
            raise statuses.not_found(kind, name)
        return found

    def find(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        with self.changed:
            return self._objects.get(kind, {}).get((namespace, name))

    def list(self, kind: Kind, namespace: str | None = None) -> list[Document]:
        """All objects of a kind (in one namespace), in the order of their names, as etcd gives them."""
        with self.changed:
            items = self._objects.get(kind, {})
            return [items[at] for at in sorted(items) if namespace is None or at[0] == namespace]

    def owned(self, kind: Kind, namespace: str, uid: str) -> Iterator[Document]:
        """The objects whose controller is `uid`."""
        for item in self.list(kind, namespace):
            if any(o["uid"] == uid and o.get("controller") for o in item["metadata"].get("ownerReferences") or []):
                yield item

    def create(self, kind: Kind, document: Document, *, dry_run: bool = False) -> Document:
        """Store a new object with what the server fills in. StatusError 409: it exists; 404: its namespace does not."""
        made = copy.deepcopy(document)
        meta = made.setdefault("metadata", {})
        with self.changed:
            namespace = meta.get("namespace", "") if kind.namespaced else ""
            if kind.namespaced and self.find(NAMESPACE, "", namespace) is None:
                raise statuses.not_found(NAMESPACE, namespace)
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = meta["generateName"] + self.suffix()
            if self.find(kind, namespace, meta["name"]) is not None:
                raise statuses.already_exists(kind, meta["name"])
            meta["uid"] = str(uuid.uuid5(self._seed, f"{kind.plural}/{namespace}/{meta['name']}/{self._version}"))
            meta["creationTimestamp"] = now()
            if "generation" in meta or _counts_generations(kind):
                meta["generation"] = 1
            made = {"kind": kind.kind, "apiVersion": kind.api_version} | made
            if dry_run:
                meta.pop("resourceVersion", None)
                return made
            return self._store("ADDED", kind, None, made)

    def replace(self, kind: Kind, document: Document, *, status_only: bool = False, dry_run: bool = False) -> Document:
        """Store a new version. StatusError 409 when `metadata.resourceVersion` is given and not the newest."""
        meta = document["metadata"]
        with self.changed:
            before = self.get(kind, meta.get("namespace", "") if kind.namespaced else "", meta["name"])
            expected = meta.get("resourceVersion")
            if expected and expected != before["metadata"]["resourceVersion"]:
                raise statuses.conflict(kind, meta["name"])
            if meta.get("uid") and meta["uid"] != before["metadata"]["uid"]:
                found, wanted = before["metadata"]["uid"], meta["uid"]
                why = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
                raise statuses.conflict(kind, meta["name"], why)
            after = _kept(kind, before, document, status_only=status_only)
            if _without_version(after) == _without_version(before):
                return before
            if dry_run:
                return after
            if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers") and kind != POD:
                return self._remove(kind, after)
            return self._store("MODIFIED", kind, before, after)

    def delete(self, kind: Kind, namespace: str, name: str, *, propagation: str = "Background") -> Document:
        """Delete an object as the real server would: pods terminate first, foreground deletion waits for dependents."""
        with self.changed:
            before = self.get(kind, namespace, name)
            if propagation == "Orphan":
                self._orphan(before["metadata"]["uid"], namespace)
            if kind == POD or propagation == "Foreground" or before["metadata"].get("finalizers"):
                if before["metadata"].get("deletionTimestamp"):
                    return before
                after = copy.deepcopy(before)
                grace = before["spec"].get("terminationGracePeriodSeconds", 30) if kind == POD else 0
                after["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
                if propagation == "Foreground" and kind != POD:
                    after["metadata"].setdefault("finalizers", []).append("foregroundDeletion")
                if _counts_generations(kind):
                    after["metadata"]["generation"] += 1
                return self._store("MODIFIED", kind, before, after)
            return self._remove(kind, before)

    def finish(self, kind: Kind, item: Document) -> None:
        """What was being deleted is gone."""
        with self.changed:
            if self.find(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]) is not None:
                self._remove(kind, item)

    def update_status(self, kind: Kind, item: Document, **status: Any) -> Document:
        """A controller's write of `status` alone; nothing happens when nothing differs."""
        after = copy.deepcopy(item)
        after["status"] = {**status}
        after["metadata"].pop("resourceVersion", None)
        return self.replace(kind, after, status_only=True)

    def amend(self, kind: Kind, namespace: str, name: str, change: Callable[[Document], None]) -> Document:
        """Read, change a copy, write; under the lock, so without conflicts. For controllers."""
        with self.changed:
            after = copy.deepcopy(self.get(kind, namespace, name))
            change(after)
            return self.replace(kind, after)

    def history(self, after: int) -> tuple[Change, ...]:
        """All changes newer than a resource version, in order."""
        with self.changed:
            low, high = 0, len(self._history)
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._history[middle].version <= after else (low, middle)
            return tuple(self._history[low:])

    def suffix(self, length: int = 5) -> str:
        """A name's random end, in Kubernetes' alphabet; the same in each run of a scenario."""
        with self.changed:
            self._named += 1
            return scrambled(f"{self._seed}{self._named}", length)

    def report_unmodelled(self, what: str) -> None:
        """Remember what was asked for and is not simulated: the run's report lists it."""
        with self.changed:
            if what not in self.unmodelled:
                self.unmodelled.append(what)

    def stop(self) -> None:
        """Wake up whoever waits, for good."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def _store(self, event: EventType, kind: Kind, before: Document | None, after: Document) -> Document:
        self._version += 1
        after["metadata"]["resourceVersion"] = str(self._version)
        meta = after["metadata"]
        at = (meta.get("namespace", "") if kind.namespaced else "", meta["name"])
        if event == "DELETED":
            self._objects[kind].pop(at, None)
        else:
            self._objects.setdefault(kind, {})[at] = after
        self._history.append(Change(self._version, event, kind, before, after))
        self.changed.notify_all()
        return after

    def _remove(self, kind: Kind, item: Document) -> Document:
        last = copy.deepcopy(item)
        stored = self._store("DELETED", kind, item, last)
        if kind == NAMESPACE:
            for other, items in list(self._objects.items()):
                for at in [at for at in items if at[0] == item["metadata"]["name"]]:
                    self._store("DELETED", other, items[at], copy.deepcopy(items[at]))
        return stored

    def _orphan(self, uid: str, namespace: str) -> None:
        for kind, items in list(self._objects.items()):
            for (where, name), item in list(items.items()):
                owners = item["metadata"].get("ownerReferences") or []
                if where == namespace and any(owner["uid"] == uid for owner in owners):
                    kept = [owner for owner in owners if owner["uid"] != uid]
                    self.amend(kind, where, name, lambda d, kept=kept: _set_owners(d, kept))  # type: ignore[misc]


def _set_owners(document: Document, owners: list[Document]) -> None:
    document["metadata"]["ownerReferences"] = owners


def _kept(kind: Kind, before: Document, document: Document, *, status_only: bool) -> Document:
    """The new version: what a client may not change stays, generation counts changes of the spec."""
    after: Document = {"kind": kind.kind, "apiVersion": kind.api_version} | copy.deepcopy(document)
    if status_only:
        after = copy.deepcopy(before) | {"status": after.get("status", {})}
    elif "status" in before and _has_status_subresource(kind):
        after["status"] = copy.deepcopy(before["status"])
    for key in (
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "namespace",
    ):
        after["metadata"].pop(key, None)
        if key in before["metadata"]:
            after["metadata"][key] = before["metadata"][key]
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
    if _counts_generations(kind) and _says(kind, after) != _says(kind, before):
        after["metadata"]["generation"] = before["metadata"]["generation"] + 1
    return after


def _says(kind: Kind, document: Document) -> tuple[Any, Any]:
    """What makes a new generation: the spec; of a Deployment its annotations (registry/apps/deployment/strategy.go),
    but for the revision that its controller writes."""
    annotations = document["metadata"].get("annotations") or {}
    if kind != DEPLOYMENT:
        return document.get("spec"), None
    return document.get("spec"), {name: text for name, text in annotations.items() if name != REVISION}


def _without_version(document: Document) -> Document:
    meta = {key: value for key, value in document["metadata"].items() if key != "resourceVersion"}
    return document | {"metadata": meta}


def _counts_generations(kind: Kind) -> bool:
    return kind.group == "apps" or kind in CUSTOM


def _has_status_subresource(kind: Kind) -> bool:
    return kind.kind in {"Deployment", "ReplicaSet", "Pod", "Service", "Namespace"} or kind in CUSTOM


def now() -> str:
    """The current time as object metadata has it: whole seconds, UTC."""
    return datetime.fromtimestamp(int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def scrambled(text: str, length: int) -> str:
    """A short stable name part in Kubernetes' alphabet (no vowels, no look-alikes; apimachinery, util/rand)."""
    alphabet = "bcdfghjklmnpqrstvwxz2456789"
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    letters = []
    for _ in range(length):
        digest, at = divmod(digest, len(alphabet))
        letters.append(alphabet[at])
    return "".join(letters)
