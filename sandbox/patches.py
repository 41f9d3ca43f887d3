"""The three patch types: JSON patch (RFC 6902), JSON merge patch (RFC 7396), and Kubernetes' strategic merge patch.

Strategic merging follows the API conventions ("Strategic Merge Patch"): lists of the kinds below merge by a key, all
other lists are replaced; `$patch: delete | replace`, `$deleteFromPrimitiveList/...` and `$retainKeys` are honoured,
`$setElementOrder/...` orders.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from runbook.sandbox.statuses import bad_request, unprocessable_patch

MERGE_KEYS: Mapping[str, str] = {
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
    "ownerReferences": "uid",
    "conditions": "type",
    "secrets": "name",
}
_PRIMITIVE_MERGE = frozenset({"finalizers"})


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: null deletes, maps merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(target: Any, patch: Any, path: tuple[str, ...] = ()) -> Any:
    """Kubernetes' own merge. `path` is where the patch stands (a Service's ports merge by another key than a Pod's)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(target) if isinstance(target, dict) else {}
    keep = patch.get("$retainKeys")
    if keep is not None:
        merged = {key: value for key, value in merged.items() if key in keep}
    for key, value in patch.items():
        if key.startswith("$"):
            _list_directive(merged, key, value)
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, list):
            current = merged.get(key)
            merged[key] = _list(current if isinstance(current, list) else [], value, (*path, key))
        else:
            merged[key] = strategic(merged.get(key), value, (*path, key))
    for key, order in patch.items():
        name = key.removeprefix("$setElementOrder/")
        if name != key and isinstance(merged.get(name), list):
            merged[name] = _ordered(merged[name], order, merge_key((*path, name)))
    return merged


def merge_key(path: tuple[str, ...]) -> str | None:
    """By which field a list of maps merges (the API's `x-kubernetes-patch-merge-key`); None = it is replaced."""
    if path and path[-1] == "ports":
        return "containerPort" if any(part in MERGE_KEYS for part in path[:-1]) else "port"
    return MERGE_KEYS.get(path[-1]) if path else None


def _list(current: list[Any], patch: list[Any], path: tuple[str, ...]) -> list[Any]:
    if path[-1] in _PRIMITIVE_MERGE:
        return current + [item for item in patch if item not in current]
    key = merge_key(path)
    if key is None or not all(isinstance(item, dict) for item in patch):
        return copy.deepcopy(patch)
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if item.get("$patch") != "replace"]
    merged = list(current)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {_go_map(item)} does not contain declared merge key: {key}")
        named = strategic({}, {key: item[key]}).get(key)  # as it would be stored
        at = next((i for i, old in enumerate(merged) if isinstance(old, dict) and old.get(key) == named), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del merged[at]
        elif at is None:
            merged.append(strategic({}, item, path))
        else:
            merged[at] = strategic(merged[at], item, path)
    return merged


def _list_directive(merged: dict[str, Any], key: str, value: Any) -> None:
    name = key.removeprefix("$deleteFromPrimitiveList/")
    if name != key and isinstance(merged.get(name), list):
        merged[name] = [item for item in merged[name] if item not in value]


def _ordered(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    def name(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted = [name(item) for item in order]
    placed = sorted((i for i in items if name(i) in wanted), key=lambda item: wanted.index(name(item)))
    return placed + [item for item in items if name(item) not in wanted]


def _go_map(item: Mapping[str, Any]) -> str:
    return "map[" + " ".join(f"{key}:{value}" for key, value in sorted(item.items())) + "]"


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902, all or nothing. A StatusError 422 where it does not fit, `test` included."""
    if not isinstance(operations, list):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    document = copy.deepcopy(target)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise unprocessable_patch() from None
    return document


def _operate(document: Any, operation: Mapping[str, Any]) -> Any:
    name, path = operation["op"], _pointer(operation["path"])
    match name:
        case "add":
            return _put(document, path, copy.deepcopy(operation["value"]), insert=True)
        case "replace":
            parent = _at(document, path[:-1])
            if not isinstance(parent, dict):  # a missing key of a map is no error to the real server
                _at(parent, path[-1:])
            return _put(document, path, copy.deepcopy(operation["value"]), insert=False)
        case "remove":
            return _take(document, path)
        case "move":
            value = _at(document, _pointer(operation["from"]))
            return _put(_take(document, _pointer(operation["from"])), path, value, insert=True)
        case "copy":
            return _put(document, path, copy.deepcopy(_at(document, _pointer(operation["from"]))), insert=True)
        case "test":
            if _same(_at(document, path), operation["value"]):
                return document
    raise ValueError(name)


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: True is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(items: list[Any], part: str, limit: int) -> int:
    if part == "-":
        return len(items)
    if not part.isdigit() or int(part) >= limit:
        raise IndexError(part)
    return int(part)


def _at(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_index(document, part, len(document))] if isinstance(document, list) else document[part]
    return document


def _put(document: Any, path: list[str], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        at = _index(parent, path[-1], len(parent) + insert)
        if insert:
            parent.insert(at, value)
        else:
            parent[at] = value
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise KeyError(path[-1])
    return document


def _take(document: Any, path: list[str]) -> Any:
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        del parent[_index(parent, path[-1], len(parent))]
    else:
        del parent[path[-1]]
    return document
