"""The algebra of Kubernetes patches: what a patch would give, and what takes exactly that back. Pure.

Strategic merge as in k8s.io/apimachinery/pkg/util/strategicpatch; JSON merge patch as in RFC 7386; JSON patch as in
RFC 6902.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.actions._kube.paths import (
    SETS,
    Element,
    Path,
    Segment,
    Touch,
    UnpatchableError,
    element,
    merge_key,
    observed,
    parse_pointer,
    pointer_to,
    read,
    text,
    touches,
)

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
    if path and path[-1] in SETS:
        return present + [item for item in patch if item not in present]
    key = merge_key(path, patch)
    if key is None:
        return copy.deepcopy(patch)
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    for item in patch:
        wanted = Element(key, item.get(key))
        found = element(present, wanted)
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


def born(touched: Iterable[Touch], live: Any, answer: Any) -> list[Path]:
    """The maps that a map patch brings into being, and that are no maps of nothing but what it names.

    To remove only what it named would leave the rest behind: defaults (`httpGet: {scheme: HTTP}`), an empty map. Maps
    that hold just what the patch named (annotations, `data`) are not among them: others may add to those. But those
    right in a list's element are: there the types have none that others add to (`emptyDir`, `securityContext`).
    """
    touched = list(touched)
    found: dict[Path, None] = {}
    for touch in touched:
        place = _missing(touch.path, live)
        made = None if place is None else read(answer, place)
        if place is None or not isinstance(made, Mapping):
            continue
        named = {other.path[-1] for other in touched if other.path[:-1] == place}
        nested = any(isinstance(value, Mapping) for value in made.values())
        if nested or not made.keys() <= named or (len(place) > 1 and isinstance(place[-2], Element)):
            found[place] = None
    return list(found)


def _missing(path: Path, live: Any) -> Path | None:
    """The outermost map on the way to a place that is not there; None where a list is, or nothing, is missing."""
    for cut in range(1, len(path)):
        if read(live, path[:cut]) is None:
            listed = isinstance(path[cut - 1], Element) or isinstance(path[cut], Element)
            return None if listed else path[:cut]
    return None


def inverse(
    touched: Iterable[Touch],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    patch_type: str,
    made: Iterable[Path] = (),
) -> Any:
    """A patch of the same type that gives the places touched their values of `before` back, and nothing else.

    `made`: maps that were brought into being, and go as a whole.
    """
    changed = [touch for touch in touched if before[text(touch.path)] != after[text(touch.path)]]
    if patch_type == "json":
        return list(_json_inverse(changed, before, after))
    result: dict[str, Any] = {}
    gone: set[Path] = set()
    made = list(made)
    for place in made:
        _graft(result, place, None)
    for touch in changed:
        name = text(touch.path)
        if any(touch.path[: len(place)] == place for place in made):
            continue
        if _added_element(touch, before, after):
            gone.add(touch.path[:-1])
            _graft(result, touch.path[:-1], {"$patch": "delete"})
        elif any(touch.path[:cut] in gone for cut in range(len(touch.path))):
            continue
        elif patch_type == "strategic" and touch.path[-1] in SETS and before[name]:
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
            found = element(node, segment)
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
        pairs = ((wanted_element := Element(key, item[key]), item, element(found, wanted_element)) for item in wanted)
    else:
        return None if wanted == found else (path, wanted, found)
    for segment, expected, actual in pairs:
        inner = difference(expected, actual, (*path, segment))
        if inner is not None:
            return inner
    return None
