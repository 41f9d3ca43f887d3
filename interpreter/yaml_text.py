"""Data as YAML text that our own reader, and every other, reads back to the same."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from runbook.interpreter.times import Duration, Timestamp
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import kind_of

_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_./@+-]+)*", re.ASCII)
_WORDS: Final = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])  # of YAML 1.1 readers, too
_BLOCK: Final = re.compile(r"(?:[^\s#][^\n]*\n+)+[^\s#][^\n]*\n?|[^\s#][^\n]*\n")
_ESCAPED: Final = re.compile('[\x00-\x1f"\\\\\x7f-\x9f\xa0\u2028\u2029\ufeff\ufffe\uffff]')
MAX_DEPTH: Final = 90


def write(value: Any) -> str:
    """Block style, two blanks of indent, keys in their order, a newline at the end. TypeError for what is no data."""
    return "".join(f"{line}\n" for line in _lines(value, 0))


def _lines(value: Any, depth: int) -> Iterator[str]:
    """The lines of one node, not indented."""
    if depth > MAX_DEPTH:
        raise ValueError("to_yaml: nested too deeply")
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _entry(f"{_text(str(key), key=True)}:", item, depth, "  ")
    elif isinstance(value, (list, tuple)) and value:
        for item in value:
            if isinstance(item, (Mapping, list, tuple)) and item:
                first, *rest = _lines(item, depth + 1)
                yield f"- {first}"
                yield from (f"  {line}" if line else "" for line in rest)
            else:
                yield from _entry("-", item, depth, "  ")
    else:
        yield from _entry("", value, depth, "")


def _entry(head: str, value: Any, depth: int, indent: str) -> Iterator[str]:
    """A scalar behind its key or dash, or a container on the lines below it."""
    if isinstance(value, (Mapping, list, tuple)) and value:
        yield head
        yield from (f"{indent}{line}" if line else "" for line in _lines(value, depth + 1))
        return
    if indent and isinstance(value, str) and _BLOCK.fullmatch(value) and not _unprintable(value):
        yield f"{head} |" if value.endswith("\n") else f"{head} |-"
        yield from (f"{indent}{line}" if line else "" for line in value.removesuffix("\n").split("\n"))
        return
    yield f"{head} {_scalar(value)}" if head else _scalar(value)


def _unprintable(text: str) -> bool:
    return _ESCAPED.search(text.replace("\n", "").replace('"', "").replace("\\", "")) is not None


def _scalar(value: Any) -> str:
    if isinstance(value, Unknown):
        raise Unknown.Reached(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (str, Duration, Timestamp)):
        return _text(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("to_yaml: not a finite number")
    if isinstance(value, (int, float)):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, (list, tuple)):
        return "[]"
    raise TypeError(f"to_yaml takes data, not {kind_of(value)}")


def _text(text: str, *, key: bool = False) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and len(text) <= (60 if key else 1000):
        return text
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(char: re.Match[str]) -> str:
    known = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return known.get(char.group()) or f"\\u{ord(char.group()):04x}"
