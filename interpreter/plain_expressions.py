"""Most expressions are plain: paths, comparisons with a literal, `and`, `or`, `not`, `is defined`. They need no Jinja.

What this reads it computes exactly as Jinja would (a law in the tests). Whatever it does not read, and whatever goes
wrong, is left to Jinja, which knows the rest of the language and explains errors.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from runbook.interpreter.unknown import Unknown

Plain: TypeAlias = Callable[[Mapping[str, Any]], Any]

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?![\w.]))|(?P<string>'[^'\\\r\n]*'|\"[^\"\\\r\n]*\")|(?P<compare>[=!<>]=|[<>])"
    r"|(?P<word>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?!\s*\.)|(?P<bracket>[()]))",
    re.ASCII,
)
_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONSTANTS: Final[Mapping[str, Any]] = {
    "true": True,
    "false": False,
    "none": None,
    "True": True,
    "False": False,
    "None": None,
}
_RESERVED: Final = frozenset(
    {*_CONSTANTS, "and", "or", "not", "in", "is", "if", "else", "self", "range", "dict", "namespace"}
)
MAX_LENGTH: Final = 500


class NotPlainError(Exception):
    """Jinja must do it."""


@lru_cache(maxsize=8192)
def plain_expression(source: str) -> Plain | None:
    """The source as a function of the names in scope, or None when it is not plain. The function raises NotPlainError
    when Jinja must do it after all, and lets Unknown.Reached through."""
    if len(source) > MAX_LENGTH:
        return None
    try:
        return _Reader(source).whole()
    except NotPlainError:
        return None


class _Reader:
    """Recursive descent, in Jinja's order: or, and, not, comparison, operand."""

    def __init__(self, source: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(source.rstrip())
        while at < end:
            found = _TOKEN.match(source, at)
            if found is None:
                raise NotPlainError
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind]))
            at = found.end()
        self.at = 0

    def whole(self) -> Plain:
        """All of it."""
        plain = self.either()
        if self.at != len(self.tokens):
            raise NotPlainError
        return plain

    def take(self, *wanted: tuple[str, str]) -> bool:
        """Step over these tokens, if they come next."""
        if tuple(self.tokens[self.at : self.at + len(wanted)]) != wanted:
            return False
        self.at += len(wanted)
        return True

    def either(self) -> Plain:
        """`a or b`."""
        left = self.both()
        while self.take(("word", "or")):
            left = _or(left, self.both())
        return left

    def both(self) -> Plain:
        """`a and b`."""
        left = self.negated()
        while self.take(("word", "and")):
            left = _and(left, self.negated())
        return left

    def negated(self) -> Plain:
        """`not a`."""
        if self.take(("word", "not")):
            inner = self.negated()
            return lambda names: not inner(names)
        return self.compared()

    def compared(self) -> Plain:
        """`a < b`; a chain of comparisons is Jinja's."""
        left = self.operand()
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "compare":
            compare = _COMPARE[self.tokens[self.at][1]]
            self.at += 1
            left = _compared(compare, left, self.operand())
            if self.at < len(self.tokens) and self.tokens[self.at][0] == "compare":
                raise NotPlainError
        return left

    def operand(self) -> Plain:
        """A literal, a path, a path and its test, or brackets."""
        if self.take(("bracket", "(")):
            inner = self.either()
            if not self.take(("bracket", ")")):
                raise NotPlainError
            return inner
        if self.at >= len(self.tokens):
            raise NotPlainError
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return _constant(float(text) if "." in text else int(text))
        if kind == "string":
            return _constant(text[1:-1])
        if kind == "word" and text in _CONSTANTS:
            return _constant(_CONSTANTS[text])
        links = tuple(text.split("."))
        if kind != "word" or links[0] in _RESERVED:
            raise NotPlainError
        return self.tested(links)

    def tested(self, links: tuple[str, ...]) -> Plain:
        """`path`, `path is defined`, `path is not none`."""
        if not self.take(("word", "is")):
            return _path(links)
        negative = self.take(("word", "not"))
        if self.take(("word", "defined")):
            return _defined(links, wanted=not negative)
        if self.take(("word", "none")):
            value = _path(links)
            return lambda names: (_known(value(names)) is None) != negative
        raise NotPlainError


def _constant(value: Any) -> Plain:
    return lambda _names: value


def _path(links: tuple[str, ...]) -> Plain:
    def walk(names: Mapping[str, Any]) -> Any:
        value: Any = names
        for link in links:
            if type(value) is Unknown:
                value = value[link]
                continue
            if (type(value) is not dict and value is not names) or link not in value:
                raise NotPlainError
            value = value[link]
        return value

    return walk


def _defined(links: tuple[str, ...], *, wanted: bool) -> Plain:
    walk = _path(links[:-1])

    def defined(names: Mapping[str, Any]) -> bool:
        around = names if len(links) == 1 else _known(walk(names))
        if type(around) is not dict and around is not names:
            raise NotPlainError
        if links[-1] not in around:
            if hasattr(dict, links[-1]):
                raise NotPlainError  # perhaps a method
            return not wanted
        _known(around[links[-1]])
        return wanted

    return defined


def _known(value: Any) -> Any:
    if type(value) is Unknown:
        raise Unknown.Reached(value)
    return value


def _or(left: Plain, right: Plain) -> Plain:
    return lambda names: left(names) or right(names)


def _and(left: Plain, right: Plain) -> Plain:
    return lambda names: left(names) and right(names)


def _compared(compare: Callable[[Any, Any], Any], left: Plain, right: Plain) -> Plain:
    def value(names: Mapping[str, Any]) -> Any:
        try:
            return compare(left(names), right(names))
        except TypeError:
            raise NotPlainError from None

    return value
