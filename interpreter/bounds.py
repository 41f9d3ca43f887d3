"""What an expression may eat: an operation whose result would be out of proportion is refused before it starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MAX_TEXT: Final = 8 * 1024 * 1024  # characters
MAX_ITEMS: Final = 100_000  # Jinja's own bound of range()
MAX_BITS: Final = 4_096  # of an integer
MAX_WIDTH: Final = 10_000  # of padding and indents

_WIDE: Final = frozenset(["center", "ljust", "rjust", "zfill"])
_PERCENT: Final = re.compile(r"%(?:\([^)]*\))?[#0 +-]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?[a-zA-Z]")
_BRACES: Final = re.compile(r"\{[^{}]*[:!][^{}]*(?P<nested>\{)?[^{}]*")


def check_length(length: int) -> None:
    """OverflowError above MAX_TEXT characters."""
    if length > MAX_TEXT:
        raise OverflowError(f"the text would be {length} characters long; at most {MAX_TEXT}")


def checked(value: Any) -> Any:
    """The value, if it is not a text of absurd length."""
    if isinstance(value, str):
        check_length(len(value))
    return value


def check_width(width: Any) -> None:
    """ValueError when padding, an indent or a count is no number up to MAX_WIDTH."""
    if not isinstance(width, int) or not -MAX_WIDTH <= width <= MAX_WIDTH:
        raise ValueError(f"a width is a whole number up to {MAX_WIDTH}")


def check_product(left: Any, right: Any) -> None:
    """`left * right`."""
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int):
            if isinstance(many, str):
                check_length(len(many) * times)
            elif isinstance(many, (list, tuple)) and len(many) * times > MAX_ITEMS:
                raise OverflowError(f"the list would have {len(many) * times} items; at most {MAX_ITEMS}")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
        raise OverflowError("the number would be too large")


def check_sum(left: Any, right: Any) -> None:
    """`left + right`."""
    if isinstance(left, str) and isinstance(right, str):
        check_length(len(left) + len(right))
    elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) + len(right) > MAX_ITEMS:
        raise OverflowError(f"the list would have {len(left) + len(right)} items; at most {MAX_ITEMS}")


def check_power(left: Any, right: Any) -> None:
    """`left ** right`."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
        raise OverflowError("the number would be too large")


def check_replace(text: str, old: str, new: str) -> None:
    """`text.replace(old, new)`."""
    check_length(len(text) + (text.count(old) if old else len(text) + 1) * max(len(new) - len(old), 0))


def check_format(text: str) -> None:
    """ValueError when a format (`%` or braces) asks for a width of five digits, or for one that it computes."""
    for found in _PERCENT.finditer(text):
        for width in (found["width"], found["precision"]):
            if width is not None and (width == "*" or len(width) > 4):
                raise ValueError("a format's width is written out and has at most four digits")
    for found in _BRACES.finditer(text):
        if found["nested"] or re.search(r"\d{5}", found.group()):
            raise ValueError("a format's width is written out and has at most four digits")


def check_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """A method of a string."""
    if name in _WIDE and args:
        check_width(args[0])
    elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        check_replace(text, args[0], args[1])
    elif name == "join" and args and isinstance(args[0], (list, tuple, str, Mapping)):
        check_length(len(text) * len(args[0]))
