"""The objects that a playbook wants to be there: read from files or given inline, checked for form, put in order."""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.contract import PermanentError

LIMIT = 16 << 20  # bytes of all manifests together
SUFFIXES = (".yaml", ".yml", ".json")
CREATED_BY = "runbook/created-by"
"""The annotation that an object carries which an operation created: its op."""

SEALED = "runbook/sealed"
"""The annotation of a Secret that k8s.export wrote: where its data is kept, sealed. Only the same run can open it."""

SERVERS = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")
"""Of the metadata: what the server writes. In a manifest it comes from `kubectl get -o yaml`, and is left out."""

CONTROLLERS = (CREATED_BY, "deployment.kubernetes.io/revision")
"""Annotations that are not a manifest's to say, either."""

ORDER = (
    *("Namespace", "CustomResourceDefinition", "PriorityClass", "StorageClass", "ResourceQuota", "LimitRange"),
    *("NetworkPolicy", "ServiceAccount", "Secret", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim"),
    *("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service"),
    *("DaemonSet", "Pod", "ReplicaSet", "Deployment", "StatefulSet", "Job", "CronJob"),
)
"""What others need comes first (as helm orders it); kinds that are not named follow, then LAST."""

LAST = ("PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress", "APIService")
WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


@dataclass(frozen=True, slots=True)
class Item:
    """An object as it is wanted. `origin`: where it stands, for people: `path: web.yaml, line 12`."""

    body: Mapping[str, Any]
    origin: str

    @property
    def api_version(self) -> str:
        """`apps/v1`."""
        return str(self.body["apiVersion"])

    @property
    def kind(self) -> str:
        """`Deployment`."""
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        """Its name in its namespace."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The namespace that the manifest itself names; mostly none."""
        return str(self.body["metadata"].get("namespace") or "")


def read(path: Path | None, manifest: str | Mapping[str, Any] | list[Any] | None) -> list[Item]:
    """The objects, in the order in which they are to be applied. PermanentError says what is wrong, and where.

    `path`: a file, or a folder whose `.yaml`, `.yml` and `.json` files are read (not its subfolders).
    """
    items = list(_from_path(path) if path is not None else _inline(manifest))
    if not items:
        what = f"path: {path}" if path is not None else "manifest:"
        raise PermanentError(f"{what} holds no object")
    _once_each(items)
    return sorted(items, key=_rank)


def unsealed(item: Item, kept: Callable[[str], bytes]) -> Item:
    """A Secret with the data that was sealed when it was exported. PermanentError where that was another run."""
    annotations = item.body["metadata"].get("annotations") or {}
    if not is_secret(item.body) or SEALED not in annotations:
        return item
    try:
        data = json.loads(kept(annotations[SEALED]))
    except (PermanentError, KeyError):
        raise PermanentError(
            f"{item.origin}: the data of Secret {item.name} was sealed by another run: only that one can open it",
            hint="an apply would leave the Secret empty; give its data in another way",
        ) from None
    rest = {key: value for key, value in annotations.items() if key != SEALED}
    metadata = {key: value for key, value in item.body["metadata"].items() if key != "annotations"}
    return Item(
        {**item.body, "metadata": metadata | ({"annotations": rest} if rest else {}), "data": data}, item.origin
    )


def digest(items: Iterable[Item]) -> str:
    """Of what is wanted: a saved plan is stale when the manifest is no longer the same."""
    text = json.dumps([item.body for item in items], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _rank(item: Item) -> tuple[int, int]:
    if item.kind in WEBHOOKS:
        return 3, 0
    if item.kind in LAST:
        return 2, LAST.index(item.kind)
    return (0, ORDER.index(item.kind)) if item.kind in ORDER else (1, 0)


def _once_each(items: Iterable[Item]) -> None:
    seen: dict[tuple[str, str, str, str], Item] = {}
    for item in items:
        group = item.api_version.rpartition("/")[0]
        other = seen.setdefault((group, item.kind, item.namespace, item.name), item)
        if other is not item:
            raise PermanentError(f"{item.origin}: {item.kind} {item.name} stands there twice, also in {other.origin}")


# -- where from


def _from_path(path: Path) -> Iterator[Item]:
    files = [path]
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and not one.name.startswith("."))
    size = 0
    for file in files:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise PermanentError(f"path: there is no file {file}") from None
        except OSError as error:
            raise PermanentError(f"path: {file}: {error.strerror}") from None
        size += len(content)
        if size > LIMIT:
            raise PermanentError(f"path: {path} holds more than {LIMIT >> 20} MiB")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise PermanentError(f"path: {file}, line {line}: no UTF-8 text") from None
        yield from _from_text(text, f"path: {file}")


def _inline(manifest: str | Mapping[str, Any] | list[Any] | None) -> Iterator[Item]:
    if isinstance(manifest, str):
        yield from _from_text(manifest, "manifest")
        return
    given = manifest if isinstance(manifest, list) else [manifest]
    for number, document in enumerate(given, start=1):
        yield from _objects(document, "manifest" if len(given) == 1 else f"manifest, object {number}")


def _from_text(text: str, origin: str) -> Iterator[Item]:
    from runbook.actions._manifest.yaml import UnreadableError, documents

    try:
        for line, document in documents(text):
            yield from _objects(document, f"{origin}, line {line}")
    except UnreadableError as error:
        where = f", line {error.line}, column {error.column}" if error.line else ""
        raise PermanentError(f"{origin}{where}: {error.says}") from None


def _objects(document: Any, origin: str) -> Iterator[Item]:
    # Truth first: what is known only at the run says so when it is asked for that.
    if not document or not isinstance(document, Mapping):
        raise PermanentError(f"{origin}: an object is a map with apiVersion, kind and metadata")
    for key in ("apiVersion", "kind"):
        if not document.get(key) or not isinstance(document[key], str):
            raise PermanentError(f"{origin}: {key} is missing")
    if str(document["kind"]).endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], start=1):
            yield from _objects(item, f"{origin}, item {number}")
        return
    metadata = document.get("metadata")
    name = metadata.get("name") if metadata and isinstance(metadata, Mapping) else None
    if not name or not isinstance(name, str):
        raise PermanentError(f"{origin}: {document['kind']} has no metadata.name, and an apply needs one")
    yield Item(_cleaned(document, origin), origin)


def _cleaned(document: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Without what only the server writes; a Secret's texts as the server keeps them."""
    body = {key: copy.deepcopy(value) for key, value in document.items() if key != "status"}
    metadata = {key: value for key, value in body["metadata"].items() if key not in SERVERS}
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict):
        metadata["annotations"] = {key: value for key, value in annotations.items() if key not in CONTROLLERS}
    body["metadata"] = metadata
    if is_secret(body):
        _as_stored(body, origin)
    return body


def is_secret(body: Mapping[str, Any]) -> bool:
    """Is it Kubernetes' own Secret?"""
    return body.get("kind") == "Secret" and body.get("apiVersion") == "v1"


def _as_stored(secret: dict[str, Any], origin: str) -> None:
    """The server never returns stringData: what it writes is observed, owned and taken back in data."""
    for part in ("data", "stringData"):
        for key, value in (secret.get(part) or {}).items():
            if value and not isinstance(value, str):
                raise PermanentError(f"{origin}: {part}.{key} of Secret {secret['metadata']['name']} is no text")
    texts = secret.pop("stringData", None) or {}
    if texts:
        encoded = {key: base64.b64encode((value or "").encode()).decode() for key, value in texts.items()}
        secret["data"] = {**(secret.get("data") or {}), **encoded}


def well_kept(item: Item) -> None:
    """PermanentError where the data of a Secret is not base64; not asked where secrets are still sealed."""
    for key, value in ((item.body.get("data") or {}) if is_secret(item.body) else {}).items():
        try:
            base64.b64decode("".join((value or "").split()), validate=True)
        except (binascii.Error, ValueError):
            raise PermanentError(
                f"{item.origin}: data.{key} of Secret {item.name} is not base64", hint="plain text goes into stringData"
            ) from None
