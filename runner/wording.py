"""How times, values and changes are written for people: one way on the screen, in plans and in reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runbook.runner import diff

STATUS_WORDS: Mapping[str, str] = {
    "timed_out": "timed out",
    "in_doubt": "in doubt",
    "succeeded": "succeeded",
    "failed": "failed",
}


REFUSED = 3  # exit code (language: Exit codes)


def status_word(status: str) -> str:
    """`timed_out` as people write it."""
    return STATUS_WORDS.get(status, status)


def end_of(status: str, code: int | None) -> str:
    """How a run ended: its status, but one that was refused (exit 3) did not fail: nothing was begun."""
    return "refused" if code == REFUSED and status == "failed" else status


def stop_reason(kind: str, why: str) -> str:
    """Why a run was stopped: `cancelled: Ctrl-C`, `cancelled by root: wrong region`, `root declined`."""
    word = status_word(kind)
    return why if why.startswith(word) or "declined" in why else ": ".join(part for part in (word, why) if part)


OVER = ("the time is over", "the time was over")
"""How a step says that it was cut, by its own time or by that of what it stands in."""


def without_step(message: str, key: str, by: str | None = None) -> str:
    """A failure's sentence as it stands beside the step that it names: without the name.

    `by`: what ended it from outside (StepView.by): whose time it was that is over.
    """
    if message.startswith(OVER):
        whose = "its time" if by is None else "the run's time" if by == "@run" else f"the time of {by.lstrip('@')}"
        return f"{whose} is over{after_late(message)}"
    late = f"{key} was not done in its time"
    if message.startswith(late):
        return "not done in its time" + message[len(late) :]
    return message.removeprefix(f"{key}: ")


def after_late(message: str) -> str:
    """What a step that was cut says beside that: `: 503`."""
    return next((message.removeprefix(late) for late in OVER if message.startswith(late)), "")


NAMED = 3
"""Steps that are named where many have the same reason."""


def listed(names: Sequence[str]) -> str:
    """Some of many names: `a, b, c and 28 more`."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def together(lines: Iterable[str]) -> list[str]:
    """Of lines `step: sentence` those of one sentence as one: one cause does not fill the screen."""
    return [f"{steps}: {sentence}" if steps else sentence for steps, sentence in grouped(lines)]


def grouped(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The same as (steps, sentence); '' where a line names no step."""
    places: dict[str, list[str]] = {}
    for line in lines:
        place, colon, sentence = line.partition(": ")
        stands = bool(colon) and " " not in place  # of a step; else the sentence has a colon of its own
        named = places.setdefault(sentence if stands else line, [])
        if stands and place not in named:
            named.append(place)
    return [(listed(named), sentence) for sentence, named in places.items()]


def span(seconds: float | None) -> str:
    """A duration, at a glance: `42ms`, `3.2s`, `15m`, `1m05s`, `2h03m`; '' for None."""
    if seconds is None:
        return ""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"


def clock(seconds: float) -> str:
    """A running clock: `0:42`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(wall: float | None) -> str:
    """A point in time as ISO 8601 in UTC, to the second; '' for None."""
    if wall is None:
        return ""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def value(wire: Any, limit: int | None = None) -> str:
    """A journaled value as one line of text: text as it is, anything else as compact JSON; seals as `‹secret:name›`."""
    shown = unwired(wire)
    if isinstance(shown, str):
        text = shown
    elif isinstance(shown, (int, float)) and not isinstance(shown, bool):
        text = str(shown)
    else:
        text = json.dumps(shown, ensure_ascii=False, default=str)
    text = one_line(text)
    return text if limit is None or len(text) <= limit else text[: max(0, limit - 1)] + "…"


def unwired(wire: Any) -> Any:
    """A journaled value as its reader means it: typed scalars as their text, seals as their mask, the rest as it is."""
    if isinstance(wire, Mapping):
        if len(wire) == 1 and str(next(iter(wire))).startswith("$"):
            from runbook.interpreter import values

            plain = values.from_wire(dict(wire))
            return str(plain) if not isinstance(plain, (dict, list)) else plain
        return {str(key): unwired(inner) for key, inner in wire.items()}
    if isinstance(wire, (list, tuple)):
        return [unwired(inner) for inner in wire]
    return wire


def one_line(text: str) -> str:
    """Text from the world on one line of a terminal: line ends and control characters are made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _VISIBLE.get(c, f"\\x{ord(c):02x}") for c in text)


_VISIBLE: Mapping[str, str] = {"\n": "\\n", "\r": "\\r", "\t": " "}


def tame(text: str) -> str:
    """Text from the world over several lines: line ends and tabs stay, other control characters are visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def change_lines(shown: Any, before: Any = None, after: Any = None, limit: int | None = 120) -> list[str]:
    """The lines that show one change: from the journaled diff where there is one, else from before and after."""
    if isinstance(shown, str):
        return tame(shown).splitlines()
    if isinstance(shown, (list, tuple)):
        if all(isinstance(entry, Mapping) and {"object", "path"} <= entry.keys() for entry in shown):
            return difference_lines([diff.Difference.from_data(entry) for entry in shown], limit)
        return [one_line(entry) if isinstance(entry, str) else value(entry, limit) for entry in shown]
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = diff.masked(diff.diff(before, after), unwired)  # a sealed leaf shows only that it changed
        return difference_lines(found, limit)
    return []


def difference_lines(differences: Sequence[diff.Difference], limit: int | None = 120) -> list[str]:
    """One line each: `production/Service/web#spec.selector.slot: green → blue`, `+` and `-` where one side is absent.

    Where a file's content is shown, its digest and size say nothing more and are left out.
    """
    told = {difference.object for difference in differences if difference.path == ("content",)}
    return [
        _difference(difference, limit)
        for difference in differences
        if difference.object not in told or difference.path not in (("sha256",), ("size",))
    ]


def _difference(difference: diff.Difference, limit: int | None) -> str:
    _, family, name = difference.object.partition(":")  # the reader sees what a thing is; its family is for the journal
    where = one_line("".join((name if family else difference.object, *(f".{part}" for part in difference.path))))
    old, new = (None if s is diff.ABSENT else value(s, limit) for s in (difference.before, difference.after))
    if old is None:
        return f"{where}: + {new}"
    if old == new == diff.CHANGED:
        return f"{where}: {new}"
    return f"{where}: - {old}" if new is None else f"{where}: {old} → {new}"
