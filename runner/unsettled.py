"""What is found where an intent has no result and looking does not settle it: in words, for who has to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runbook.runner.diff import ABSENT, diff
from runbook.runner.wording import one_line, value

SHOWN = 4  # places of each sort
WIDE = 120  # characters of one value

Mask = Callable[[Any], Any]
States = Mapping[str, Any]


def told(action: str, before: States, after: States, now: States, mask: Mask) -> str:
    """A sentence that names what somebody else has changed: what is there, what was there before, what was expected.

    And of the other places that were to change, whether they have. Masked: secrets are not shown.
    """
    moved = sorted(_moved(before, after, now))
    rest = [name for name in sorted(after) if name not in moved and after[name] != before.get(name)]
    said = [
        *_few([line for name in moved for line in _differing(name, before, after, now, mask)]),
        *_listed("as it was to become", [name for name in rest if now.get(name) == after[name]]),
        *_listed("as before", [name for name in rest if now.get(name) != after[name]]),
    ]
    return str(mask(f"nobody knows whether {action} happened: {'; '.join(said)}"))


def _moved(before: States, after: States, now: States) -> list[str]:
    """Objects that are in a third state; where there is none, those that are gone."""
    found = [name for name, state in now.items() if state not in (before.get(name), after.get(name))]
    return found or [name for name in after if name not in now and None not in (before.get(name), after[name])]


def _differing(name: str, before: States, after: States, now: States, mask: Mask) -> Iterator[str]:
    """The leaves of one object that are not as expected."""
    expected, there = ({name: states[name]} if name in states else {} for states in (after, now))
    for leaf in diff(expected, there):
        where = one_line("".join((_plain(name), *(f".{part}" for part in leaf.path))))
        there_now, was, wanted = leaf.after, _at(before.get(name, ABSENT), leaf.path), leaf.before
        if any(mask(side) != side for side in (there_now, was, wanted) if side is not ABSENT):
            yield f"{where} is not as expected (what it holds is not shown)"
        elif there_now == was:
            yield f"{where} is {_shown(there_now)} as before, not {_shown(wanted)} as it was to become"
        elif was == wanted:
            yield f"{where} is {_shown(there_now)}, not {_shown(was)} as before"
        else:
            ends = f"neither {_shown(was)} as before nor {_shown(wanted)} as it was to become"
            yield f"{where} is {_shown(there_now)}, {ends}"


def _at(state: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path of `diff`."""
    for part in path:
        if isinstance(state, Mapping):
            state = state.get(part, ABSENT)
        elif isinstance(state, list) and part.startswith("name="):
            items = (item for item in state if isinstance(item, Mapping))
            state = next((item for item in items if item.get("name") == part.removeprefix("name=")), ABSENT)
        elif isinstance(state, list) and part.isdigit() and int(part) < len(state):
            state = state[int(part)]
        else:
            return ABSENT
    return state


def _shown(side: Any) -> str:
    if side is ABSENT or side is None:
        return "nothing"
    return value(side, WIDE) or '""'


def _listed(how: str, names: list[str]) -> list[str]:
    return [f"{how}: {', '.join(_few([one_line(_plain(name)) for name in names]))}"] if names else []


def _few(words: list[str]) -> list[str]:
    return [*words[:SHOWN], f"and {len(words) - SHOWN} more"] if len(words) > SHOWN else words


def _plain(name: str) -> str:
    """As people read it: an object's family is for the journal."""
    _, family, rest = name.partition(":")
    return rest if family else name
