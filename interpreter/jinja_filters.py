"""Jinja's own filters that would print Python's values or have no bound: made to print as text does, and to stop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jinja2 import pass_environment
from jinja2.filters import FILTERS as JINJA
from jinja2.filters import make_attrgetter

from runbook.interpreter import bounds
from runbook.interpreter.values import joined, text_of


@pass_environment
def _join(environment: Any, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> Any:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    between = text_of(d)
    pieces: list[Any] = []
    length = 0
    for item in items:
        piece = text_of(item)
        length += len(piece) + len(between)
        bounds.check_length(length)
        pieces += [between, piece] if pieces else [piece]
    return joined(pieces)


@functools.wraps(JINJA["replace"])
def _replace(eval_ctx: Any, s: Any, old: Any, new: Any, count: int | None = None) -> Any:
    text, old, new = text_of(s), text_of(old), text_of(new)
    bounds.check_replace(text, old, new)
    return JINJA["replace"](eval_ctx, text, old, new, count)


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    text = text_of(value)
    bounds.check_format(text)
    return JINJA["format"](text, *map(_printable, args), **{key: _printable(item) for key, item in kwargs.items()})


def _printable(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else text_of(value)


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    text, step = text_of(s), len(width) if isinstance(width, str) else width
    bounds.check_width(step)
    bounds.check_length(len(text) + (text.count("\n") + 1) * step)
    return JINJA["indent"](text, width, first, blank)


def _center(value: Any, width: int = 80) -> Any:
    bounds.check_width(width)
    return JINJA["center"](text_of(value), width)


def _batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    bounds.check_width(linecount)
    return JINJA["batch"](value, linecount, fill_with)


def _slice(value: Iterable[Any], slices: int, fill_with: Any = None) -> Any:
    bounds.check_width(slices)
    return JINJA["slice"](value, slices, fill_with)


def _round(value: Any, precision: int = 0, method: Any = "common") -> Any:
    bounds.check_width(precision * 100)
    return JINJA["round"](value, precision, method)


@functools.wraps(JINJA["wordwrap"])
def _wordwrap(environment: Any, s: Any, width: int = 79, *args: Any, **kwargs: Any) -> Any:
    text = text_of(s)
    bounds.check_width(width)
    wrap = kwargs.get("wrapstring", args[1] if len(args) > 1 else None) or "\n"
    bounds.check_length(len(text) + (len(text) // max(width, 1) + text.count(" ") + 1) * len(wrap))
    return JINJA["wordwrap"](environment, text, width, *args, **kwargs)


@pass_environment
def _attr(environment: Any, obj: Any, name: str) -> Any:
    return environment.getattr(obj, name)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "join": _join,
    "replace": _replace,
    "format": _format,
    "indent": _indent,
    "center": _center,
    "batch": _batch,
    "slice": _slice,
    "round": _round,
    "wordwrap": _wordwrap,
    "attr": _attr,
}
