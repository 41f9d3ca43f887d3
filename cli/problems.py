"""Problems of a playbook as people, programs and code-scanning services read them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from runbook import __version__
from runbook.interpreter.errors import Place, Problem

LINE_END: Final = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # as the YAML reader counts lines
WIDTH: Final = 110  # columns of the file's line that are shown
_WORD = re.compile(r"[\w.\-/]+")
_COLORS = {"error": "\033[1;31m", "warning": "\033[1;33m", "dim": "\033[2m", "caret": "\033[1;36m", "bold": "\033[1m"}
_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def render_text(problems: Iterable[Problem], files: Mapping[str, str], color: bool) -> str:
    """Each problem with its line and a caret, the path by step ids, what was expected and a hint; a count at the end.

    `files`: the texts by path. `color`: with ANSI colours. Control characters of a file never reach the terminal.
    """
    every = tuple(problems)
    lines = {name: LINE_END.split(text) for name, text in files.items()}
    blocks = [_block(one, lines.get(one.place.file, []), color) for one in every]
    if every:
        blocks.append(count(every) + "\n")
    return "\n".join(blocks)


def count(problems: Iterable[Problem]) -> str:
    """`2 errors, 1 warning`."""
    severities = [one.severity for one in problems]
    words = []
    for severity in ("error", "warning"):
        number = severities.count(severity)
        if number:
            words.append(f"{number} {severity}{'s' if number > 1 else ''}")
    return ", ".join(words) or "no problems"


def render_json(problems: Iterable[Problem]) -> str:
    """One JSON document: `{"problems": [...], "errors": n, "warnings": n}`."""
    every = tuple(problems)
    body = {
        "problems": [
            {
                "file": one.place.file,
                "line": one.place.line or None,
                "column": one.place.column or None,
                "severity": one.severity,
                "rule": one.rule,
                "message": one.message,
                "path": one.path or None,
                "expected": one.expected or None,
                "hint": one.hint or None,
            }
            for one in every
        ],
        "errors": sum(one.severity == "error" for one in every),
        "warnings": sum(one.severity == "warning" for one in every),
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def render_sarif(problems: Iterable[Problem]) -> str:
    """SARIF 2.1.0 (OASIS), one run; lines and columns count from 1, columns in Unicode code points."""
    every = tuple(problems)
    rules = list(dict.fromkeys(one.rule for one in every))
    body = {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "runbook",
                        "version": __version__,
                        "rules": [{"id": rule, "shortDescription": {"text": rule.replace("-", " ")}} for rule in rules],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, rules.index(one.rule)) for one in every],
            }
        ],
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _result(one: Problem, rule: int) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(one.place)}}
    if one.place.line:
        physical["region"] = {"startLine": one.place.line, "startColumn": one.place.column}
    location: dict[str, Any] = {"physicalLocation": physical}
    if one.path:
        location["logicalLocations"] = [{"fullyQualifiedName": one.path}]
    sentences = [one.message, f"Expected: {one.expected}" if one.expected else "", one.hint]
    return {
        "ruleId": one.rule,
        "ruleIndex": rule,
        "level": one.severity,
        "message": {"text": ". ".join(sentence for sentence in sentences if sentence)},
        "locations": [location],
    }


def _uri(place: Place) -> str:
    path = quote(place.file.replace("\\", "/"), safe="/~.-_", errors="replace")
    return f"file://{path}" if path.startswith("/") else path


def _block(one: Problem, lines: list[str], color: bool) -> str:
    paint = _painted if color else _plain
    place, severity = paint(_safe(f"{one.place}:"), "bold"), paint(f"{one.severity}:", one.severity)
    head = f"{place} {severity} {paint(_safe(one.message), 'bold')}"
    out = [head]
    if 0 < one.place.line <= len(lines):
        number = str(one.place.line)
        shown, indent, length = _cut(lines[one.place.line - 1], one.place.column)
        gap = " " * len(number)
        out.append(f"  {paint(f'{number} |', 'dim')} {shown}".rstrip())
        out.append(f"  {paint(f'{gap} |', 'dim')} {' ' * indent}{paint('^' * length, 'caret')}")
    for label, text in (("at", one.path), ("expected", one.expected), ("hint", one.hint)):
        if text:
            out.append(f"  {paint(f'{label}:', 'dim')} {_safe(text)}")
    return "\n".join(out) + "\n"


def _cut(line: str, column: int) -> tuple[str, int, int]:
    """The part of a line that is shown, the caret's indent in terminal columns, and how many carets."""
    at = min(max(column - 1, 0), len(line))
    start = max(0, at - WIDTH // 2) if len(line) > WIDTH else 0
    part = line[start : start + WIDTH]
    before = ("…" if start else "") + _safe(line[start:at])
    shown = ("…" if start else "") + _safe(part) + ("…" if start + WIDTH < len(line) else "")
    word = _WORD.match(line, at)
    length = max(1, min(len(word[0]) if word else 1, WIDTH - (at - start)))
    return shown, sum(map(_columns, before)), length


def _safe(text: str) -> str:
    """Text without anything that a terminal would obey; tabs as one space."""
    return "".join(char if char.isprintable() else " " if char in "\t\n" else "�" for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _painted(text: str, color: str) -> str:
    return f"{_COLORS[color]}{text}\033[0m"


def _plain(text: str, _: str) -> str:
    return text
