"""The algebra of Kubernetes patches: what a patch touches, what it would give, and what takes exactly that back. Pure.

Strategic merge as in k8s.io/apimachinery/pkg/util/strategicpatch, with the merge keys of the built-in types' Go tags;
JSON merge patch as in RFC 7386; JSON patch as in RFC 6902. A list without a known merge key is one value.
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
_SETS = frozenset({"finalizers"})  # lists of plain values that merge


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
            tree = _element(tree, segment)
        elif isinstance(tree, Mapping):
            tree = tree.get(segment)
        elif isinstance(tree, list) and segment.isdigit() and int(segment) < len(tree):
            tree = tree[int(segment)]
        else:
            return None
    return tree


def _element(listed: Any, wanted: Element) -> Any:
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


# -- what a patch would give


def applied(tree: Any, patch: Any, patch_type: str) -> Any:
    """The object as the patch leaves it, by the rules known here. UnpatchableError where a JSON patch does not fit."""
    if patch_type == "json":
        return _json_applied(copy.deepcopy(tree), patch, lenient=False)
    return _merged(copy.deepcopy(tree), patch, (), strategic=patch_type == "strategic")


def _merged(tree: Any, patch: Any, path: Path, *, strategic: bool) -> Any:
    if isinstance(patch, list) and strategic:
        return _merged_list(tree, patch, path)
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    if strategic and patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if strategic and patch.get("$patch") == "delete":
        return {}
    result = dict(tree) if isinstance(tree, Mapping) else {}
    if strategic and "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        directive, _, field = str(key).partition("/")
        if strategic and directive == "$deleteFromPrimitiveList":
            result[field] = [item for item in result.get(field) or () if item not in value]
        elif strategic and directive.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value, (*path, str(key)), strategic=strategic)
        if strategic and result.get(field or key) == []:
            del result[field or key]  # built-in types (no others take strategic patches) leave empty lists out
    return result


def _merged_list(tree: Any, patch: list[Any], path: Path) -> Any:
    present = list(tree) if isinstance(tree, list) else []
    if path and path[-1] in _SETS:
        return present + [item for item in patch if item not in present]
    key = merge_key(path, patch)
    if key is None:
        return copy.deepcopy(patch)
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    for item in patch:
        wanted = Element(key, item.get(key))
        found = _element(present, wanted)
        if item.get("$patch") == "delete":
            present = [entry for entry in present if entry is not found]
        elif found is None:
            present.append(_merged({}, item, (*path, wanted), strategic=True))
        else:
            merged = _merged(found, item, (*path, wanted), strategic=True)
            present = [merged if entry is found else entry for entry in present]
    return present


def is_there(tree: Any, patch: Any, patch_type: str) -> bool:
    """Does the object hold already what the patch wants? Tests do not matter then, nor what is gone already."""
    touched = touches(patch, patch_type)
    try:
        if patch_type == "json":
            wanted = _json_applied(copy.deepcopy(tree), patch, lenient=True)
        else:
            wanted = applied(tree, patch, patch_type)
    except UnpatchableError:
        return False
    return observed(wanted, touched) == observed(tree, touched)


def _json_applied(tree: Any, operations: list[Mapping[str, Any]], *, lenient: bool) -> Any:
    for operation in operations:
        path = parse_pointer(operation["path"])
        op = operation.get("op")
        if op == "test":
            if not lenient and _at(tree, path) != operation.get("value"):
                raise UnpatchableError(f"test failed: {operation['path']} is {json.dumps(_at(tree, path))}")
        elif op == "remove" and lenient and read(tree, tuple(path)) is None:
            continue
        elif op == "remove":
            tree = _set(tree, path, remove=True)
        elif op == "replace":
            tree = _set(_set(tree, path, remove=True), path, operation["value"])
        elif op == "add":
            tree = _set(tree, path, operation["value"])
        elif op in ("copy", "move"):
            source = parse_pointer(operation["from"])
            value = copy.deepcopy(_at(tree, source))
            tree = _set(tree, source, remove=True) if op == "move" else tree
            tree = _set(tree, path, value)
        else:
            raise UnpatchableError(f"no such operation: {op!r}")
    return tree


def _at(tree: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            raise UnpatchableError(f"there is nothing at {pointer_to(tuple(path))}")
    return tree


def _set(tree: Any, path: list[str], value: Any = None, *, remove: bool = False) -> Any:
    if not path:
        return None if remove else copy.deepcopy(value)
    parent, last = _at(tree, path[:-1]), path[-1]
    if remove:
        _at(tree, path)
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if remove:
            del parent[index]
        else:
            parent.insert(index, copy.deepcopy(value))
    elif isinstance(parent, dict):
        if remove:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(value)
    else:
        raise UnpatchableError(f"{pointer_to(tuple(path[:-1]))} is neither a map nor a list")
    return tree


# -- what takes it back


def inverse(touched: Iterable[Touch], before: Mapping[str, Any], after: Mapping[str, Any], patch_type: str) -> Any:
    """A patch of the same type that gives the places touched their values of `before` back, and nothing else."""
    changed = [touch for touch in touched if before[text(touch.path)] != after[text(touch.path)]]
    if patch_type == "json":
        return list(_json_inverse(changed, before, after))
    result: dict[str, Any] = {}
    gone: set[Path] = set()
    for touch in changed:
        name = text(touch.path)
        if _added_element(touch, before, after):
            gone.add(touch.path[:-1])
            _graft(result, touch.path[:-1], {"$patch": "delete"})
        elif any(touch.path[:cut] in gone for cut in range(len(touch.path))):
            continue
        elif patch_type == "strategic" and touch.path[-1] in _SETS and before[name]:
            added = [item for item in after[name] or () if item not in before[name]]
            _graft(result, touch.path, copy.deepcopy(before[name]))
            _graft(result, (*touch.path[:-1], f"$deleteFromPrimitiveList/{touch.path[-1]}"), added)
        else:
            _graft(result, touch.path, _back(touch, before[name], after[name], strategic=patch_type == "strategic"))
    return result


def _added_element(touch: Touch, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Is this the merge key of a list element that was not there?"""
    if len(touch.path) < 2 or not isinstance(touch.path[-2], Element):
        return False
    name = text(touch.path)
    return touch.path[-1] == touch.path[-2].key and before[name] is None and after[name] is not None


def _back(touch: Touch, before: Any, after: Any, *, strategic: bool) -> Any:
    if before is None or not strategic:
        return copy.deepcopy(before)
    if isinstance(before, Mapping) and touch.whole and isinstance(after, Mapping):
        return {**copy.deepcopy(dict(before)), "$patch": "replace"}
    if isinstance(before, list) and merge_key(touch.path, before) is not None:
        return [*copy.deepcopy(before), {"$patch": "replace"}]
    return copy.deepcopy(before)


def _json_inverse(
    changed: list[Touch], before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for touch in reversed(changed):
        pointer, name = pointer_to(touch.path), text(touch.path)
        if after[name] is not None:
            yield {"op": "test", "path": pointer, "value": after[name]}
        if before[name] is None:
            yield {"op": "remove", "path": pointer}
        else:
            yield {"op": "add" if after[name] is None else "replace", "path": pointer, "value": before[name]}


def tree_of(touched: Iterable[Touch], state: Mapping[str, Any]) -> dict[str, Any]:
    """A partial object that holds the state: what `expect` of an inverse compares with."""
    result: dict[str, Any] = {}
    for touch in touched:
        _graft(result, touch.path, state[text(touch.path)])
    return result


def _graft(result: dict[str, Any], path: Path, value: Any) -> None:
    """Put a value at a path of a nested patch, making the maps and list elements on the way."""
    node: Any = result
    for index, segment in enumerate(path):
        last = index == len(path) - 1
        if isinstance(segment, Element):
            found = _element(node, segment)
            if found is None:
                found = {segment.key: segment.value}
                node.append(found)
            if last:
                found.update(value)
            node = found
        elif last:
            node[segment] = value
        else:
            node = node.setdefault(segment, [] if isinstance(path[index + 1], Element) else {})


# -- compare and set


def difference(wanted: Any, found: Any, path: Path = ()) -> tuple[Path, Any, Any] | None:
    """The first place where `found` does not hold what `wanted` says (maps: at least that; null: nothing there)."""
    if isinstance(wanted, Mapping):
        if not wanted and isinstance(found, Mapping):
            return None
        if not isinstance(found, Mapping):
            return path, wanted, found
        pairs: Iterable[tuple[Segment, Any, Any]] = ((str(key), value, found.get(key)) for key, value in wanted.items())
    elif isinstance(wanted, list) and (key := merge_key(path, wanted)) is not None and wanted:
        pairs = ((element := Element(key, item[key]), item, _element(found, element)) for item in wanted)
    else:
        return None if wanted == found else (path, wanted, found)
    for segment, expected, actual in pairs:
        inner = difference(expected, actual, (*path, segment))
        if inner is not None:
            return inner
    return None
