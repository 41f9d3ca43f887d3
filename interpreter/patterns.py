"""Regular expressions of authors against text of the world: refused where backtracking could run away.

Python's `re` backtracks and cannot be stopped, so a pattern is read first. A choice is ambiguous where a repeat, an
option or alternatives can go on with the same character in two ways. An ambiguous choice inside a repeat may take
exponential time and is refused, as are back references. Otherwise the steps are at most f * n^k: k counts the starting
point (unless the pattern is anchored), every ambiguous unbounded repeat, and one for all others, which only scan; f
multiplies the ways of the bounded ones. A text that is too long for that is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from re import _constants as code  # type: ignore[attr-defined]  # the only parser of Python's own patterns
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final, TypeAlias

from runbook.interpreter.frozen import frozen

MAX_PATTERN: Final = 1_000
MAX_TEXT: Final = 1_000_000
STEPS: Final = 100_000_000  # of the matcher, backtracking: about two seconds
SCANNED: Final = 1_600_000_000  # of the matcher, only scanning: about two seconds
BOUNDED: Final = 20  # a repeat that may differ by more counts as unbounded

_SAMPLE: Final = "".join(map(chr, range(128))) + "\x85\xa0éЖ٣漢\u2028😀"
Characters: TypeAlias = frozenset[str]
_ANY: Final = frozenset(_SAMPLE)
_NOTHING: Final[Characters] = frozenset()
_END: Final[Characters] = frozenset({""})  # nothing follows: the match is complete
_REPEATS: Final = (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT)


@frozen
class _Cost:
    """`degree`: ambiguous unbounded repeats. `factor`: ways of the bounded ones. `scans`: there are other unbounded."""

    degree: int = 0
    factor: int = 1
    scans: bool = False

    def __mul__(self, other: _Cost) -> _Cost:
        return _Cost(self.degree + other.degree, self.factor * other.factor, self.scans or other.scans)

    def longest(self, starts: int) -> int:
        """How many characters a text may have. `starts`: 1 when a match may begin anywhere, 0 when it is anchored."""
        degree = self.degree + starts + self.scans
        steps = STEPS if self.degree or self.factor > 1 else SCANNED
        return min(MAX_TEXT, int((steps / self.factor) ** (1 / max(degree, 1))))


def checked(pattern: str, length: int, ignorecase: bool = False, multiline: bool = False) -> re.Pattern[str]:
    """The compiled pattern, for a text of `length` characters. ValueError when it is malformed or could run away."""
    flags = (re.IGNORECASE if ignorecase else 0) | (re.MULTILINE if multiline else 0)
    ready, allowed = _read(pattern, flags)
    if length > allowed:
        raise ValueError(
            f"with this pattern a text has at most {allowed} characters, not {length}; "
            "begin the pattern with ^, or let each * and + end at something that it cannot match itself"
        )
    return ready


def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """An author's pattern. What Python would warn of (`[[`, `--`: other rules some day) has no place on the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(pattern, flags)


@lru_cache(maxsize=512)
def _read(pattern: str, flags: int) -> tuple[re.Pattern[str], int]:
    """The compiled pattern, and the longest text for it."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    try:
        ready = _compiled(pattern, flags)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            items = list(parser.parse(pattern, flags))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
    cost = _cost(items, ready.flags, _END, inside=False)
    return ready, cost.longest(starts=0 if _anchored(items, ready.flags) else 1)


def _anchored(items: Sequence[Any], flags: int) -> bool:
    if not items or items[0][0] is not code.AT:
        return False
    where = items[0][1]
    return where is code.AT_BEGINNING_STRING or (where is code.AT_BEGINNING and not flags & re.MULTILINE)


def _cost(items: Sequence[Any], flags: int, after: Characters, *, inside: bool) -> _Cost:
    """Of a sequence. `after`: how what follows it can begin; `inside`: it stands in a repeat."""
    cost, following = _Cost(), after
    for operator, argument in reversed(items):
        cost *= _of_item(operator, argument, flags, following, inside=inside)
        first, empty = _first(operator, argument, flags)
        following = first | following if empty else first
    return cost


def _of_item(operator: Any, argument: Any, flags: int, following: Characters, *, inside: bool) -> _Cost:
    if operator in _REPEATS:
        return _of_repeat(argument, flags, following, inside=inside)
    if operator is code.SUBPATTERN:
        return _cost(list(argument[3]), flags | argument[1], following, inside=inside)
    if operator is code.ATOMIC_GROUP:
        return _cost(list(argument), flags, following, inside=inside)
    if operator in (code.ASSERT, code.ASSERT_NOT):
        return _cost(list(argument[1]), flags, _NOTHING, inside=inside)
    if operator is code.BRANCH:
        return _of_branches(argument[1], flags, following, inside=inside)
    if operator in (code.GROUPREF, code.GROUPREF_EXISTS, code.GROUPREF_IGNORE):
        raise ValueError("back references are not supported")
    return _Cost()


def _of_repeat(argument: Any, flags: int, following: Characters, *, inside: bool) -> _Cost:
    low, high, body = argument
    items = list(body)
    begins, _ = _firsts(items, flags)
    many = high is code.MAXREPEAT or high > 1
    cost = _cost(items, flags, begins | following if many else following, inside=inside or many)
    unbounded = high is code.MAXREPEAT or high - low > BOUNDED
    if high == low or not begins & following:
        return cost * _Cost(scans=unbounded and following != _END)  # at the very end it cannot fail
    if inside:
        raise ValueError("a repeat or option inside a repeat may take forever where it can match what follows it")
    return cost * (_Cost(degree=1) if unbounded else _Cost(factor=high - low + 1))


def _of_branches(branches: Sequence[Any], flags: int, following: Characters, *, inside: bool) -> _Cost:
    cost, seen, alike = _Cost(), _NOTHING, False
    for branch in branches:
        items = list(branch)
        cost *= _cost(items, flags, following, inside=inside)
        first, empty = _firsts(items, flags)
        first = first | following if empty else first
        alike = alike or bool(first & seen)
        seen |= first
    if alike and inside:
        raise ValueError("alternatives inside a repeat that begin alike may take forever")
    return cost * _Cost(factor=len(branches)) if alike else cost


def _firsts(items: Sequence[Any], flags: int) -> tuple[Characters, bool]:
    """How a sequence can begin, and whether it can be empty."""
    found: Characters = _NOTHING
    for operator, argument in items:
        first, empty = _first(operator, argument, flags)
        found |= first
        if not empty:
            return found, False
    return found, True


def _first(operator: Any, argument: Any, flags: int) -> tuple[Characters, bool]:
    if operator in _REPEATS:
        first, empty = _firsts(list(argument[2]), flags)
        return first, empty or argument[0] == 0
    if operator is code.SUBPATTERN:
        return _firsts(list(argument[3]), flags | argument[1])
    if operator is code.ATOMIC_GROUP:
        return _firsts(list(argument), flags)
    if operator is code.BRANCH:
        pairs = [_firsts(list(branch), flags) for branch in argument[1]]
        return _NOTHING.union(*(first for first, _ in pairs)), any(empty for _, empty in pairs)
    if operator in (code.AT, code.ASSERT, code.ASSERT_NOT):
        return _ANY, True  # it may fail whatever comes next
    return _characters(operator, argument, flags), False


_CATEGORIES: Final = {
    code.CATEGORY_DIGIT: r"\d",
    code.CATEGORY_NOT_DIGIT: r"\D",
    code.CATEGORY_SPACE: r"\s",
    code.CATEGORY_NOT_SPACE: r"\S",
    code.CATEGORY_WORD: r"\w",
    code.CATEGORY_NOT_WORD: r"\W",
}


def _characters(operator: Any, argument: Any, flags: int) -> Characters:
    """Which characters one atom matches. A sample stands for all: what it cannot tell apart counts as overlapping."""
    if operator is code.ANY:
        return _ANY if flags & re.DOTALL else _ANY - {"\n"}
    if operator is code.LITERAL:
        return _cased(chr(argument), flags)
    if operator is code.NOT_LITERAL:
        return _ANY - {chr(argument)}
    if operator is code.IN:
        negated = bool(argument) and argument[0][0] is code.NEGATE
        members = _NOTHING.union(*(_members(kind, item, flags) for kind, item in argument[1 if negated else 0 :]))
        return _ANY - members if negated else members
    return _ANY


def _members(kind: Any, item: Any, flags: int) -> Characters:
    if kind is code.LITERAL:
        return _cased(chr(item), flags)
    if kind is code.RANGE:
        inside = frozenset(char for char in _SAMPLE if item[0] <= ord(char) <= item[1])
        beyond = {"漢"} if item[1] > 127 else set()
        return _NOTHING.union(inside, beyond, *(_cased(char, flags) for char in inside))
    if kind is code.CATEGORY:
        return frozenset(re.findall(_CATEGORIES[item], _SAMPLE, flags & re.ASCII))
    return _ANY


def _cased(char: str, flags: int) -> Characters:
    same = {char, char.lower(), char.upper()} if flags & re.IGNORECASE else {char}
    return frozenset(same if ord(char) < 128 else {*same, "漢"})  # beyond ASCII all is taken for alike
