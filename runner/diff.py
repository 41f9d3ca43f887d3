"""What differs between two observations, leaf by leaf: the same lines in the plan, on the screen and in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from runbook.interpreter.frozen import frozen


class _Absent:
    """The value of what is not there; None is a value."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


@frozen
class Difference:
    """One leaf that changes. `path`: parts; list items are `name=web` where they have names, else indexes."""

    object: str
    path: tuple[str, ...]
    before: Any
    after: Any

    def to_data(self) -> dict[str, Any]:
        """As JSON; a side that is absent has no key."""
        data: dict[str, Any] = {"object": self.object, "path": list(self.path)}
        if self.before is not ABSENT:
            data["before"] = self.before
        if self.after is not ABSENT:
            data["after"] = self.after
        return data

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Difference:
        """The reverse of `to_data`."""
        return Difference(data["object"], tuple(data["path"]), data.get("before", ABSENT), data.get("after", ABSENT))


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """All leaves that differ between two observations `{object: state}`, in a stable order."""
    return tuple(
        Difference(name, path, old, new)
        for name in sorted({*before, *after})
        for path, old, new in _leaves((), before.get(name, ABSENT), after.get(name, ABSENT))
    )


def _leaves(path: tuple[str, ...], old: Any, new: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if old is not ABSENT and new is not ABSENT and same(old, new):
        return
    pairs = pairs_of(old, new)
    if pairs is None:
        yield path, old, new
        return
    for part, was, now in pairs:
        yield from _leaves((*path, part), was, now)


def same(old: Any, new: Any) -> bool:
    """Whether nothing changes; `1` and `true` are not the same."""
    return (type(old) is type(new) or (isinstance(old, str) and isinstance(new, str))) and bool(old == new)


def pairs_of(old: Any, new: Any) -> list[tuple[str, Any, Any]] | None:
    """The children of two nodes side by side; None where a leaf is reached."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [(str(key), old.get(key, ABSENT), new.get(key, ABSENT)) for key in _keys(old, new)]
    if isinstance(old, list) and isinstance(new, list):
        was, now = _named(old), _named(new)
        if was is not None and now is not None and list(was) == [k for k in now if k in was][: len(was)]:
            return [(f"name={key}", was.get(key, ABSENT), now.get(key, ABSENT)) for key in _keys(was, now)]
        if len(old) == len(new) and old and all(isinstance(item, dict) for item in [*old, *new]):
            return [(str(index), a, b) for index, (a, b) in enumerate(zip(old, new, strict=True))]
    return None


def _named(items: list[Any]) -> dict[str, Any] | None:
    """Items by their name, where each has one of its own (containers, ports, env)."""
    found = {item["name"]: item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
    return found if items and len(found) == len(items) else None


def _keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [*old, *(key for key in new if key not in old)]


def masked(differences: tuple[Difference, ...], mask: Callable[[Any], Any]) -> tuple[Difference, ...]:
    """Fit to be shown: secrets masked; where either side of a leaf holds one, both show only that it changed."""
    return tuple(
        Difference(str(mask(item.object)), tuple(str(mask(part)) for part in item.path), *_covered(item, mask))
        for item in differences
    )


CHANGED: Final = "(changed)"
"""Both sides of a leaf of which one holds a secret: the other is likely what the secret was before (house: Secrets)."""
NOT_SHOWN: Final = "(not shown)"
"""A leaf that held a secret, where it is gone."""


def _covered(item: Difference, mask: Callable[[Any], Any]) -> tuple[Any, Any]:
    before, after = (side if side is ABSENT else mask(side) for side in (item.before, item.after))
    if before == item.before and after == item.after:
        return before, after
    if before is ABSENT:
        return before, after  # nothing was there before: the new text with its masks says nothing more
    return (NOT_SHOWN, after) if after is ABSENT else (CHANGED, CHANGED)
