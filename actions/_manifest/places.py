"""Which places of an object an apply touches, and what stands there. Pure.

From the manifest's form: its leaves. From the object: what `runbook` applied before and the manifest no longer names,
for the server removes that. Named as k8s.patch names them, so that both mean the same place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.actions._kube import fields, paths
from runbook.actions._kube.cluster import MANAGER, sensitive
from runbook.actions._kube.paths import Element, Path, Touch
from runbook.actions._manifest.documents import CREATED_BY, SERVERS

OWNED = "metadata.managedFields[manager=runbook]"
"""The place that says which fields `runbook` owns: an apply may change nothing but that."""

ATOMIC = frozenset(
    [
        *("selector", "nodeSelector", "podSelector", "namespaceSelector", "labelSelector", "objectSelector"),
        *("valueFrom", "configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef", "roleRef", "claimRef"),
        *("targetRef", "scaleTargetRef", "dataSource", "dataSourceRef", "backend", "resource"),
    ]
)
"""Maps that built-in types replace as a whole (`+structType=atomic`, `+mapType=atomic` in k8s.io/api)."""

_SERVER = {("metadata", name) for name in (*SERVERS, "deletionTimestamp", "deletionGracePeriodSeconds")}
_COUNTED = ("deployment.kubernetes.io/revision", CREATED_BY)


def touched(body: Mapping[str, Any], live: Mapping[str, Any] | None, *, custom: bool) -> list[Touch]:
    """The places that applying `body` to `live` touches."""
    named = [touch for touch in _leaves(body, (), custom=custom) if not _is_identity(touch.path)]
    return [*named, *_released(live, named, custom=custom)]


def drifted(live: Mapping[str, Any], would: Mapping[str, Any], known: Iterable[Touch]) -> list[Touch]:
    """Places that would change although neither the manifest nor its owner's list names them: values of before, gone
    or replaced by the server."""
    named = [touch.path for touch in known]
    return [Touch(path, whole=True) for path in _replaced(live, would, ()) if not _covered(path, named)]


def aligned(live: Mapping[str, Any], would: Mapping[str, Any], known: Iterable[Touch]) -> dict[str, Any]:
    """`would`, with the values of `live` wherever the apply touches nothing: for a dry run that met a newer object."""
    merged = dict(_aligned(live, would, (), [touch.path for touch in known]))
    metadata = {**merged["metadata"], "managedFields": fields.taken(live, would, MANAGER)}
    return {**merged, "metadata": metadata}


def _aligned(live: Any, would: Any, path: Path, known: list[Path]) -> Any:
    if live == would or (path and not _covered(path, known)):
        return live
    if isinstance(live, Mapping) and isinstance(would, Mapping) and path not in known:
        pairs = {key: _aligned(live.get(key), would.get(key), (*path, str(key)), known) for key in {**live, **would}}
        return {key: value for key, value in pairs.items() if value is not None}
    if isinstance(live, list) and isinstance(would, list) and (key := _unique_key(path, [*would])) is not None:
        if key != _unique_key(path, live):
            return would
        names = dict.fromkeys(item[key] for item in [*would, *live])
        elements = []
        for name in names:
            here = Element(key, name)
            was, now = paths.element(live, here), paths.element(would, here)
            elements.append(_aligned(was, now, (*path, here), known))
        return [element for element in elements if element is not None]
    return would


def states(tree: Mapping[str, Any] | None, places: Iterable[Touch], *, secret: bool) -> dict[str, Any]:
    """`{path: value}`; what a Secret holds is Sensitive."""
    seen = paths.observed(tree or {}, places)
    if not secret:
        return seen
    return {name: value if harmless(name) else sensitive(value) for name, value in seen.items()}


def at(tree: Any, place: str) -> Any:
    """What stands at a place that was named by its text; None where nothing does."""
    for plain, quoted, key, value in re.findall(
        r'\.?([A-Za-z0-9_-]+)|\[("(?:[^"\\]|\\.)*")\]|\[([A-Za-z]+)=(.*?)\](?=\.|\[|$)', place
    ):
        if key:
            listed = tree if isinstance(tree, list) else []
            tree = next((item for item in listed if isinstance(item, Mapping) and str(item.get(key)) == value), None)
        elif isinstance(tree, Mapping):
            tree = tree.get(json.loads(quoted) if quoted else plain)
        else:
            return None
    return tree


def _leaves(value: Any, path: Path, *, custom: bool) -> Iterator[Touch]:
    if isinstance(value, Mapping) and value and not (path and path[-1] in ATOMIC and not custom):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)), custom=custom)
    elif isinstance(value, list) and value and not custom and (key := _unique_key(path, value)) is not None:
        for item in value:
            here = (*path, Element(key, item[key]))
            yield Touch((*here, key))
            rest = {name: inner for name, inner in item.items() if name != key}
            yield from _leaves(rest, here, custom=custom) if rest else ()
    else:
        yield Touch(path, whole=not (isinstance(value, Mapping) and not value))


def _unique_key(path: Path, items: list[Any]) -> str | None:
    key = paths.merge_key(path, items)
    if key is None or len({json.dumps(item.get(key)) for item in items}) < len(items):
        return None
    return key


def _released(live: Mapping[str, Any] | None, named: list[Touch], *, custom: bool) -> Iterator[Touch]:
    known = [touch.path for touch in named]
    for leaf in fields.leaves(fields.owned(live, MANAGER)):
        path = _plain(leaf, custom=custom)
        if path and not _covered(path, known) and not _is_identity(path) and CREATED_BY not in path:
            known.append(path)
            yield Touch(path, whole=True)


def _plain(leaf: fields.FieldPath, *, custom: bool) -> Path:
    """A path of managedFields as ours; it ends at a list whose elements have no known name."""
    path: Path = ()
    for segment in leaf:
        sort, _, rest = segment.partition(":")
        if sort == "f":
            path = (*path, rest)
            continue
        keys = json.loads(rest) if sort == "k" and not custom else {}
        key = paths.merge_key(path, [keys])
        if not keys or key is None:
            return path
        path = (*path, Element(key, keys[key]))
    return path


def _covered(path: Path, known: Iterable[Path]) -> bool:
    """Is it one of them, in one of them, or around one?"""
    return any(path[: len(other)] == other[: len(path)] for other in known)


def _replaced(live: Any, would: Any, path: Path) -> Iterator[Path]:
    if live == would or live is None or _is_servers(path):
        return
    if isinstance(live, Mapping) and isinstance(would, Mapping):
        for key, value in live.items():
            yield from _replaced(value, would.get(key), (*path, str(key)))
    elif (
        isinstance(live, list)
        and isinstance(would, list)
        and (key := _unique_key(path, live)) is not None
        and key == _unique_key(path, would)
    ):
        for item in live:
            element = Element(key, item[key])
            yield from _replaced(item, paths.element(would, element), (*path, element))
    else:
        yield path


def _is_identity(path: Path) -> bool:
    return path in (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("metadata",))


def _is_servers(path: Path) -> bool:
    """Does the server, or a controller, write it?"""
    return path in _SERVER or path[:1] == ("status",) or bool(path and path[-1] in _COUNTED)


def harmless(name: str) -> bool:
    """A place of a Secret that may be shown. Not all of its annotations: kubectl keeps a copy of the data in one."""
    shown = ("metadata.labels", "metadata.annotations[", "metadata.managedFields", "type", "immutable")
    return name.startswith(shown) and "last-applied" not in name
