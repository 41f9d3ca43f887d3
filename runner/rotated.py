"""What a secret was before it was rotated: declared nowhere any more, known by what stands in its place now.

What stands beside a secret, the other side of a change, is treated as one: sealed in the journal, never shown
(house: "Secrets never enter the interpreter").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from runbook.contract import Sensitive
from runbook.runner.diff import ABSENT, NOT_SHOWN, pairs_of, same


def beside(before: Any, after: Any, mask: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Both observations, each Sensitive where the other side of a leaf holds a secret."""
    if before is ABSENT or after is ABSENT or same(before, after):
        return before, after
    pairs = pairs_of(before, after)
    if pairs is None:
        hides, hidden = mask(before) != before, mask(after) != after
        return (_sensitive(before) if hidden else before), (_sensitive(after) if hides else after)
    sides = {part: beside(was, now, mask) for part, was, now in pairs}
    old, new = ({part: both[at] for part, both in sides.items()} for at in (0, 1))
    return _rebuilt(before, old), _rebuilt(after, new)


def _rebuilt(side: Any, parts: Mapping[str, Any]) -> Any:
    """A map or a list again, of the children that `pairs_of` took apart."""
    if isinstance(side, Mapping):
        return {key: parts[str(key)] for key in side}
    return [parts.get(str(index), parts.get(f"name={_name(item)}")) for index, item in enumerate(side)]


def _name(item: Any) -> Any:
    return item.get("name") if isinstance(item, Mapping) else None


def _sensitive(value: Any) -> Any:
    if isinstance(value, str):
        return Sensitive(value)
    if isinstance(value, Mapping):
        return {key: _sensitive(item) for key, item in value.items()}
    return [_sensitive(item) for item in value] if isinstance(value, list) else value


def covered_text(text: str, mask: Callable[[Any], Any]) -> str:
    """A unified diff, masked; where a line that comes or goes holds a secret, its counterpart is not shown either."""
    shown: list[str] = []
    for moves, run in itertools.groupby(text.split("\n"), lambda line: line[:1] in ("-", "+")):
        lines = list(run)
        shown += _covered_block(lines, mask) if moves else lines
    return str(mask("\n".join(shown)))


def _covered_block(lines: list[str], mask: Callable[[Any], Any]) -> list[str]:
    """Lines that go and lines that come in their place: side by side where there are as many of them."""
    gone, come = ([at for at, line in enumerate(lines) if line[0] == sign] for sign in "-+")
    holding = {at for at, line in enumerate(lines) if mask(line) != line}
    if not holding:
        return lines
    if len(gone) == len(come):
        hidden = {at for pair in zip(gone, come, strict=True) if holding & {*pair} for at in pair}
    else:
        hidden = {*gone, *come}
    return [f"{line[0]} {NOT_SHOWN}" if at in hidden else line for at, line in enumerate(lines)]
