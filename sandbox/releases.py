"""Simulated Helm releases, kept beside the objects: a rollback really applies a revision's manifest.

As helm 3 does it (pkg/action/rollback.go).
"""

from __future__ import annotations

import copy
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from runbook.sandbox import admission, kinds, patches
from runbook.sandbox.kinds import Kind
from runbook.sandbox.world import Document, World

CHANGING = frozenset({"pending-install", "pending-upgrade", "pending-rollback"})


class HelmError(Exception):
    """A failure as helm prints it after `Error: `."""


@dataclass(frozen=True, slots=True)
class Release:
    """One revision of a release."""

    name: str
    revision: int
    status: str
    chart: str
    app_version: str
    description: str
    manifest: str
    updated: float = field(default_factory=time.time)

    @property
    def updated_text(self) -> str:
        """RFC 3339 with nanoseconds, as helm prints it."""
        whole = datetime.fromtimestamp(int(self.updated), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{whole}.{int(self.updated % 1 * 1e9):09d}Z"

    def objects(self) -> list[Document]:
        """The manifest's objects. ValueError where it is no YAML."""
        try:
            documents = list(YAML(typ="safe", pure=True).load_all(self.manifest))
        except YAMLError as error:
            raise ValueError(f"the manifest is no YAML: {error}") from None
        return [document for document in documents if document]


def dump(objects: list[Document], chart: str) -> str:
    """A manifest as helm stores it."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    parts = []
    for item in objects:
        out = io.StringIO()
        yaml.dump(item, out)
        name = f"{item['kind'].lower()}-{item['metadata']['name']}"
        parts.append(f"---\n# Source: {chart}/templates/{name}.yaml\n{out.getvalue()}")
    return "".join(parts)


class Releases:
    """All releases of a world, by namespace and name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.RLock()
        self._all: dict[tuple[str, str], list[Release]] = {}

    def add(self, namespace: str, revisions: list[Release]) -> None:
        """A release with its history; its objects get helm's marks of ownership."""
        first = time.time() - 60 * len(revisions)
        dated = [replace(one, updated=first + 60 * at) for at, one in enumerate(revisions)]
        with self._lock:
            self._all[namespace, revisions[0].name] = dated
        for item in dated[-1].objects():
            kind = kinds.of_object(item)
            if kind is not None and self._world.find(kind, namespace, item["metadata"]["name"]) is not None:
                name = revisions[0].name
                self._world.amend(kind, namespace, item["metadata"]["name"], lambda d, n=name: _owned(d, n, namespace))  # type: ignore[misc]

    def names(self, namespace: str) -> list[str]:
        """The releases in a namespace."""
        with self._lock:
            return sorted(name for where, name in self._all if where == namespace)

    def history(self, namespace: str, name: str) -> list[Release]:
        """All revisions, ascending. HelmError when there is none."""
        with self._lock:
            found = self._all.get((namespace, name))
        if not found:
            raise HelmError("release: not found")
        return list(found)

    def revision(self, namespace: str, name: str, number: int) -> Release:
        """One revision; 0 means the newest."""
        history = self.history(namespace, name)
        if number == 0:
            return history[-1]
        found = next((one for one in history if one.revision == number), None)
        if found is None:
            raise HelmError("release: not found")
        return found

    def rollback(
        self, namespace: str, name: str, number: int, *, wait: float | None, dry_run: bool, gone: Callable[[], bool]
    ) -> None:
        """What `helm rollback` does. `number` 0 means the one before the newest, failed or not, as helm does it.

        `wait`: seconds to wait for readiness, None = not at all. `gone`: the program was killed; then the release stays
        pending-rollback, as a killed helm leaves it.
        """
        history = self.history(namespace, name)
        newest = history[-1]
        number = number or newest.revision - 1
        target = next((one for one in history if one.revision == number), None)
        if target is None:
            raise HelmError(f"release has no {number} version")
        if dry_run:
            return
        made = replace(
            target,
            revision=newest.revision + 1,
            status="pending-rollback",
            description=f"Rollback to {number}",
            updated=time.time(),
        )
        with self._lock:
            self._all[namespace, name].append(made)
        self._update(namespace, name, newest.objects(), made.objects())
        if wait is not None and not self._ready(namespace, made.objects(), wait, gone):
            if gone():
                return
            text = "context deadline exceeded"
            self._put(namespace, replace(made, status="failed", description=f'Release "{name}" failed: {text}'))
            raise HelmError(f"release {name} failed: {text}")
        with self._lock:
            for one in self.history(namespace, name):
                if one.status == "deployed":
                    self._put(namespace, replace(one, status="superseded"))
            self._put(namespace, replace(made, status="deployed"))

    def _put(self, namespace: str, release: Release) -> None:
        with self._lock:
            history = self._all[namespace, release.name]
            at = next(i for i, one in enumerate(history) if one.revision == release.revision)
            history[at] = release

    def _update(self, namespace: str, name: str, current: list[Document], target: list[Document]) -> None:
        """Create, patch in three ways, delete what the target no longer has."""
        before = {_identity(item): item for item in current}
        for item in target:
            kind = kinds.of_object(item)
            if kind is None:
                self._world.report_unmodelled(f"helm: objects of {item.get('apiVersion')} {item.get('kind')}")
                raise HelmError(f"SIMULATED helm does not model {item.get('apiVersion')} {item.get('kind')}")
            self._apply(kind, namespace, name, item, before.pop(_identity(item), None))
        for item in before.values():
            kind = kinds.of_object(item)
            if kind is not None and self._world.find(kind, namespace, item["metadata"]["name"]) is not None:
                self._world.delete(kind, namespace, item["metadata"]["name"])

    def _apply(self, kind: Kind, namespace: str, release: str, item: Document, original: Document | None) -> None:
        wanted = copy.deepcopy(item)
        wanted["metadata"]["namespace"] = namespace
        _owned(wanted, release, namespace)
        with self._world.changed:
            live = self._world.find(kind, namespace, item["metadata"]["name"])
            if live is None:
                self._world.create(kind, admission.defaulted(kind, wanted))
                return
            deletions = _deletions(original or {}, item)
            after = patches.strategic(patches.strategic(copy.deepcopy(live), deletions), wanted)
            after["metadata"].pop("resourceVersion", None)
            self._world.replace(kind, admission.defaulted(kind, after))

    def _ready(self, namespace: str, objects: list[Document], seconds: float, gone: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while True:
            with self._world.changed:
                waiting = [i for i in objects if i["kind"] == "Deployment" and not self._rolled_out(namespace, i)]
                left = end - time.monotonic()
                if not waiting:
                    return True
                if left <= 0 or gone() or self._world.stopped:
                    return False
                self._world.changed.wait(min(left, 0.1))

    def _rolled_out(self, namespace: str, item: Document) -> bool:
        live = self._world.find(kinds.DEPLOYMENT, namespace, item["metadata"]["name"])
        if live is None:
            return False
        status, wanted = live.get("status", {}), live["spec"]["replicas"]
        return bool(
            status.get("observedGeneration") == live["metadata"]["generation"]
            and status.get("updatedReplicas", 0) == wanted
            and status.get("replicas", 0) == wanted
            and status.get("availableReplicas", 0) == wanted
        )


def _identity(item: Document) -> tuple[Any, Any, Any]:
    return item.get("apiVersion"), item.get("kind"), item["metadata"]["name"]


def _owned(item: Document, release: str, namespace: str) -> None:
    meta = item["metadata"]
    meta["labels"] = {**(meta.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
    marks = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
    meta["annotations"] = {**(meta.get("annotations") or {}), **marks}


def _deletions(original: Any, target: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """A strategic merge patch that removes what `original` has and `target` has not."""
    patch: dict[str, Any] = {}
    for key, value in original.items():
        if key not in target:
            patch[key] = None
        elif isinstance(value, dict) and isinstance(target[key], dict):
            patch |= {key: inner} if (inner := _deletions(value, target[key], (*path, key))) else {}
        elif isinstance(value, list) and isinstance(target[key], list):
            merge_key = patches.merge_key((*path, key))
            removed = _removed(value, target[key], merge_key, (*path, key))
            patch |= {key: removed} if removed else {}
    return patch


def _removed(old: list[Any], new: list[Any], merge_key: str | None, path: tuple[str, ...]) -> list[dict[str, Any]]:
    if merge_key is None:
        return []  # a list without a key is replaced as a whole by the patch that follows
    by_key = {item.get(merge_key): item for item in new if isinstance(item, dict)}
    patch: list[dict[str, Any]] = []
    for item in old:
        name = item.get(merge_key)
        if name not in by_key:
            patch.append({"$patch": "delete", merge_key: name})
        elif inner := _deletions(item, by_key[name], path):
            patch.append({merge_key: name} | inner)
    return patch
