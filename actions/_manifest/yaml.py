"""Manifests as text -> plain data, with the place of what is wrong. YAML as kubectl reads it: version 1.1, strictly.

`0644` is octal, `yes` is true; no dates, no numbers to the base of 60, no key twice; what JSON cannot say is an error
(https://kubernetes.io/docs/concepts/overview/working-with-objects/, sigs.k8s.io/yaml).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_NODES = 200_000
"""Of one text, aliases counted as often as they are used."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_BASES = {"0x": 16, "0o": 8, "0b": 2}


class UnreadableError(Exception):
    """`line` and `column` count from 1; 0: not known."""

    def __init__(self, says: str, line: int = 0, column: int = 0) -> None:
        super().__init__(says)
        self.says = says
        self.line = line
        self.column = column


def documents(text: str) -> Iterator[tuple[int, Any]]:
    """The documents of a text, each with the line that it begins in; empty ones are left out."""
    try:
        for node in yaml.compose_all(text, Loader=_LOADER):
            value = None if node is None else _Reader().value(node)
            if value is not None:
                yield node.start_mark.line + 1, value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        says = " ".join(part for part in (error.problem, error.context) if part) or "no YAML"
        raise UnreadableError(says, *(() if mark is None else (mark.line + 1, mark.column + 1))) from None
    except yaml.YAMLError as error:  # a character that YAML does not have
        raise UnreadableError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise UnreadableError("nested too deeply") from None


class _Reader:
    """One document's nodes as data."""

    def __init__(self) -> None:
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise _at(node, f"more than {MAX_NODES} values")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self._open:
            raise _at(node, "an alias that holds itself")
        self._open.add(id(node))
        try:
            if node.tag not in (f"{_PREFIX}map", f"{_PREFIX}seq"):
                raise _at(node, f"the tag {node.tag.replace(_PREFIX, '!!')} means nothing here")
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item) for item in node.value]
            assert isinstance(node, yaml.MappingNode)
            return self._map(node)
        finally:
            self._open.discard(id(node))

    def _map(self, node: yaml.MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _at(key, "a key that is no plain word")
            if key.tag == f"{_PREFIX}merge":
                for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    given = self.value(source)
                    if not isinstance(given, dict):
                        raise _at(source, "`<<` takes maps")
                    merged = {**given, **merged}
            elif key.value in found:
                raise _at(key, f"the key {key.value!r} stands there twice")
            else:
                found[key.value] = self.value(item)
        return {**merged, **found}


def _scalar(node: yaml.ScalarNode) -> Any:
    text, tag = node.value, node.tag.removeprefix(_PREFIX)
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("true", "yes", "on")
    if tag == "str" and not node.style and (number := _plain_number(text)) is not None:
        return number
    if tag == "int":
        return _integer(text)
    if tag == "float":
        return _float(node)
    if tag in ("str", "timestamp", "value"):
        return text
    raise _at(node, f"the tag {node.tag.replace(_PREFIX, '!!')} means nothing here")


def _plain_number(text: str) -> int | float | None:
    """Numbers that YAML 1.1 takes for text, and kubectl does not: `1e3`, `0o644`."""
    if re.fullmatch(r"[-+]?0o[0-7]+", text):
        return int(text, 8)
    return float(text) if _NUMBER.fullmatch(text) else None


def _integer(text: str) -> int | str:
    if ":" in text:  # `22:22` is a pair of ports, not 1342
        return text
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    base = _BASES.get(digits[:2])
    if base is not None:
        return sign * int(digits[2:], base)
    return sign * int(digits, 8 if len(digits) > 1 and digits.startswith("0") else 10)


def _float(node: yaml.ScalarNode) -> float | str:
    text = str(node.value)
    if ":" in text:
        return text
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        number = math.nan  # `.inf` and `.nan`
    if not math.isfinite(number):
        raise _at(node, f"{text} is no number that the API could take")
    return number


def _at(node: yaml.Node, says: str) -> UnreadableError:
    return UnreadableError(says, node.start_mark.line + 1, node.start_mark.column + 1)
