"""Who owns which field: managedFields, as the API server keeps them. Pure.

The format is FieldsV1 of structured-merge-diff (https://kubernetes.io/docs/reference/using-api/server-side-apply/):
a path is a row of segments `f:<field>`, `k:<keys of a list element, JSON>`, `v:<value in a set>`, `i:<index>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FieldPath = tuple[str, ...]
Owner = tuple[str, str, str, str]
"""Manager, operation (Apply, Update), apiVersion, subresource."""


def owners(found: Mapping[str, Any] | None) -> dict[Owner, frozenset[FieldPath]]:
    """The field sets of an object by their owner."""
    sets: dict[Owner, frozenset[FieldPath]] = {}
    for entry in _entries(found):
        sets[_owner(entry)] = frozenset(_members(entry.get("fieldsV1") or {}, ()))
    return sets


def owned(found: Mapping[str, Any] | None, manager: str) -> frozenset[FieldPath]:
    """What a manager owns by applying it."""
    mine = [paths for owner, paths in owners(found).items() if owner[:2] == (manager, "Apply") and not owner[3]]
    return frozenset().union(*mine)


def told(paths: frozenset[FieldPath]) -> str | None:
    """A set of paths, short: its size, and a digest that says whether it is the same. None: it is empty."""
    if not paths:
        return None
    text = json.dumps(sorted(paths), separators=(",", ":"))
    return f"{len(paths)} fields, {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def leaves(paths: frozenset[FieldPath]) -> list[FieldPath]:
    """The paths below which there are none, in a stable order."""
    above = {path[:cut] for path in paths for cut in range(len(path))}
    return sorted(path for path in paths if path not in above)


def restored(
    live: Mapping[str, Any], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The managedFields of `live`, where what went from `before` to `after` is owned as in `before` again.

    Only the paths whose owner or value the change touched: what others took or gave up elsewhere stays so.
    """
    then, since, now = owners(before), owners(after), owners(live)
    # Also the paths that only `live` knows: a patch that put values back owns them, until the owners are put back, too.
    everywhere = (*then.values(), *since.values(), *now.values())
    touched = set(_changed(before, after, {path for paths in everywhere for path in paths}))
    for owner in {*then, *since}:
        touched |= then.get(owner, frozenset()) ^ since.get(owner, frozenset())
    result = []
    known = {_owner(entry): entry for entry in [*_entries(before), *_entries(live)]}
    for owner in sorted({*now, *then}):
        had = then.get(owner, frozenset())
        paths = (now.get(owner, frozenset()) - touched) | (had & touched)
        if paths:
            result.append({**known[owner], "fieldsType": "FieldsV1", "fieldsV1": _tree(paths)})
    return result


def taken(before: Mapping[str, Any], after: Mapping[str, Any], manager: str) -> list[dict[str, Any]]:
    """The managedFields of `after`, where all that others gained meanwhile is left out: what `manager` gained, and what
    others lost."""
    then = owners(before)
    result = []
    for entry in _entries(after):
        owner = _owner(entry)
        paths = frozenset(_members(entry.get("fieldsV1") or {}, ()))
        kept = paths if owner[:2] == (manager, "Apply") else paths & then.get(owner, frozenset())
        if kept:
            result.append({**entry, "fieldsV1": _tree(kept)})
    return result


def operations(live: Mapping[str, Any], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON patch operations from the owners of an object to the wanted ones; of those that others write meanwhile, none
    is touched that need not be."""
    if not wanted:
        return [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]  # an empty list means: as they are
    by_owner = {_owner(entry): entry for entry in wanted}
    found: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    for index, entry in enumerate(_entries(live)):
        at = f"/metadata/managedFields/{index}"
        becomes = by_owner.pop(_owner(entry), None)
        if becomes is not None and set(_members(becomes["fieldsV1"], ())) == set(_members(entry["fieldsV1"], ())):
            continue
        found += [{"op": "test", "path": f"{at}/{key}", "value": entry[key]} for key in ("manager", "operation")]
        found.append({"op": "test", "path": f"{at}/fieldsV1", "value": entry["fieldsV1"]})
        if becomes is None:
            gone.insert(0, {"op": "remove", "path": at})
        else:
            found.append({"op": "replace", "path": f"{at}/fieldsV1", "value": becomes["fieldsV1"]})
    new: list[dict[str, Any]] = [
        {"op": "add", "path": "/metadata/managedFields/-", "value": entry} for entry in by_owner.values()
    ]
    if not _entries(live):
        new = [{"op": "add", "path": "/metadata/managedFields", "value": wanted}]
    return [*found, *gone, *new]


def same_owners(one: Mapping[str, Any] | None, other: list[dict[str, Any]]) -> bool:
    """Are these the owners of the object, whatever the times say?"""
    return owners(one) == owners({"metadata": {"managedFields": other}})


def at(tree: Any, path: FieldPath) -> Any:
    """What stands at a path; None where nothing does."""
    for segment in path:
        sort, _, rest = segment.partition(":")
        if sort == "f":
            tree = tree.get(rest) if isinstance(tree, Mapping) else None
        elif not isinstance(tree, list):
            return None
        elif sort == "k":
            tree = _element(tree, json.loads(rest))
        elif sort == "v":
            value = json.loads(rest)
            tree = value if value in tree else None
        else:
            tree = tree[int(rest)] if int(rest) < len(tree) else None
    return tree


def _element(items: list[Any], keys: Mapping[str, Any]) -> Any:
    for item in items:
        if isinstance(item, Mapping) and all(item.get(key, value) == value for key, value in keys.items()):
            return item
    return None


def _changed(before: Any, after: Any, paths: Iterable[FieldPath]) -> Iterator[FieldPath]:
    for path in paths:
        was, now = at(before, path), at(after, path)
        if was != now and not (_is_inner(was) and _is_inner(now)):
            yield path
    # A map that stays a map is judged by what is in it, unless it is owned as one value.
    inner = {path[:cut] for path in paths for cut in range(len(path))}
    for path in set(paths) - inner:
        if at(before, path) != at(after, path):
            yield path


def _is_inner(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def _entries(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return list(((found or {}).get("metadata") or {}).get("managedFields") or ())


def _owner(entry: Mapping[str, Any]) -> Owner:
    return (
        str(entry.get("manager") or ""),
        str(entry.get("operation") or ""),
        str(entry.get("apiVersion") or ""),
        str(entry.get("subresource") or ""),
    )


def _members(node: Mapping[str, Any], path: FieldPath) -> Iterator[FieldPath]:
    for segment, below in node.items():
        if segment == ".":
            yield path
        elif not below:
            yield (*path, segment)
        else:
            yield from _members(below, (*path, segment))


def _tree(paths: Iterable[FieldPath]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    chosen = set(paths)
    above = {path[:cut] for path in chosen for cut in range(1, len(path))}
    for path in sorted(chosen):
        node = result
        for segment in path:
            node = node.setdefault(segment, {})
        if path in above:
            node["."] = {}
    return result
