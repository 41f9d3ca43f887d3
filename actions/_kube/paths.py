"""Places in an object, and which of them a Kubernetes patch touches: from its own form alone. Pure.

With the merge keys of the built-in types' Go tags (k8s.io/api); a list without a known merge key is one value.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "schedulingGates": "name",
    "resourceClaims": "name",
    "ownerReferences": "uid",
    "secrets": "name",  # ServiceAccount
    "webhooks": "name",
    "matchConditions": "name",
    "conditions": "type",
}
SETS = frozenset({"finalizers"})
"""Lists of plain values that merge."""


@dataclass(frozen=True, slots=True)
class Element:
    """The element of a list whose merge key has this value."""

    key: str
    value: Any


Segment = str | Element
Path = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Touch:
    """A place that a patch writes. `whole`: all that stands there, not only what the patch names."""

    path: Path
    whole: bool = False


class UnpatchableError(Exception):
    """The patch does not fit the object (a JSON patch's path or test)."""


# -- paths


def text(path: Path) -> str:
    """`spec.template.spec.containers[name=app].image`, `metadata.annotations["a.b/c"]`."""
    parts = []
    for segment in path:
        if isinstance(segment, Element):
            parts.append(f"[{segment.key}={segment.value}]")
        elif re.fullmatch(r"[A-Za-z0-9_-]+", segment):
            parts.append(f".{segment}" if parts else segment)
        else:
            parts.append(f"[{json.dumps(segment)}]")
    return "".join(parts)


def read(tree: Any, path: Path) -> Any:
    """What stands at a path; None where nothing does (the API stores no nulls)."""
    for segment in path:
        if isinstance(segment, Element):
            tree = element(tree, segment)
        elif isinstance(tree, Mapping):
            tree = tree.get(segment)
        elif isinstance(tree, list) and segment.isdigit() and int(segment) < len(tree):
            tree = tree[int(segment)]
        else:
            return None
    return tree


def element(listed: Any, wanted: Element) -> Any:
    """That element of a list, or None."""
    if not isinstance(listed, list):
        return None
    return next((item for item in listed if isinstance(item, Mapping) and item.get(wanted.key) == wanted.value), None)


def merge_key(path: Path, items: Iterable[Any]) -> str | None:
    """The merge key of the list at a path, where it is known and all given items carry it."""
    field = path[-1] if path else ""
    if not isinstance(field, str):
        return None
    if field == "ports":  # Container.ports and ServiceSpec.ports
        key: str | None = "containerPort" if any(isinstance(segment, Element) for segment in path) else "port"
    else:
        key = MERGE_KEYS.get(field)
    if key is None or not all(isinstance(item, Mapping) and ("$patch" in item or key in item) for item in items):
        return None
    return key


# -- what a patch touches


def touches(patch: Any, patch_type: str) -> list[Touch]:
    """The places that a patch writes, in its order, from its own form alone: the same before and after."""
    if patch_type == "json":
        found = list(_json_touches(patch))
    elif not patch:
        found = []
    else:
        found = list(_map_touches(patch, (), strategic=patch_type == "strategic"))
    wholes = {touch.path for touch in found if touch.whole}
    kept: dict[Path, Touch] = {}
    for touch in found:
        if not any(touch.path[:cut] in wholes for cut in range(len(touch.path))):
            kept.setdefault(touch.path, touch)
    return list(kept.values())


def _map_touches(patch: Any, path: Path, *, strategic: bool) -> Iterator[Touch]:
    if isinstance(patch, list) and strategic:
        yield from _list_touches(patch, path)
        return
    if not isinstance(patch, Mapping):
        yield Touch(path, whole=True)
        return
    if strategic and ("$patch" in patch or "$retainKeys" in patch):
        yield Touch(path, whole=True)
        return
    if not patch:
        yield Touch(path)
        return
    for key, value in patch.items():
        directive, _, field = str(key).partition("/")
        if strategic and directive in ("$setElementOrder", "$deleteFromPrimitiveList"):
            yield Touch((*path, field), whole=True)
        else:
            yield from _map_touches(value, (*path, str(key)), strategic=strategic)


def _list_touches(items: list[Any], path: Path) -> Iterator[Touch]:
    key = merge_key(path, items)
    # Deleting or reordering elements: to put an element back in its place, the whole list must be known.
    if key is None or any("$patch" in item for item in items):
        yield Touch(path, whole=True)
        return
    for item in items:
        here = (*path, Element(key, item[key]))
        yield Touch((*here, key))
        yield from _map_touches({k: v for k, v in item.items() if k != key} or {key: item[key]}, here, strategic=True)


def _json_touches(operations: list[Mapping[str, Any]]) -> Iterator[Touch]:
    for operation in operations:
        op = operation.get("op")
        if op == "test":
            continue
        for pointer in [operation["from"]] if op == "move" else []:
            yield _json_touch(pointer, moves=True)
        yield _json_touch(operation["path"], moves=op in ("add", "remove", "move", "copy"))


def _json_touch(pointer: str, *, moves: bool) -> Touch:
    path = parse_pointer(pointer)
    if moves and path and (path[-1].isdigit() or path[-1] == "-"):
        return Touch(tuple(path[:-1]), whole=True)  # the elements behind it move
    return Touch(tuple(path), whole=True)


def parse_pointer(pointer: str) -> list[str]:
    """The segments of a JSON pointer (RFC 6901)."""
    if pointer and not pointer.startswith("/"):
        raise UnpatchableError(f"not a JSON pointer: {pointer!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def pointer_to(path: Path) -> str:
    """A path of plain segments as a JSON pointer."""
    return "".join("/" + str(segment).replace("~", "~0").replace("/", "~1") for segment in path)


def observed(tree: Any, touched: Iterable[Touch]) -> dict[str, Any]:
    """`{path: value}` of the places touched; of a map that was only to exist, nothing but that."""
    state = {}
    for touch in touched:
        value = read(tree, touch.path)
        state[text(touch.path)] = {} if isinstance(value, Mapping) and not touch.whole else copy.deepcopy(value)
    return state


def misfit(tree: Any, touched: Iterable[Touch]) -> Path | None:
    """A place where a map patch would write into what is no map: what is lost there, no inverse could bring back."""
    for touch in touched:
        for cut in range(1, len(touch.path)):
            value = read(tree, touch.path[:cut])
            following = touch.path[cut]
            if value is not None and not isinstance(value, list if isinstance(following, Element) else Mapping):
                return touch.path[:cut]
    return None
