"""The filters that the language adds to Jinja's.

Each takes plain data and gives plain data; what is wrong is a ValueError or TypeError with a sentence.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from runbook.interpreter.times import Duration, Timestamp, parse_duration, parse_timestamp
from runbook.interpreter.values import json_text, kind_of, text_of


def _string(value: Any, filter_: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{filter_} takes a string, not {kind_of(value)}")
    return str.__str__(value)


def b64encode(value: Any) -> str:
    """Text as standard base64 of its UTF-8 bytes (RFC 4648)."""
    return base64.b64encode(_string(value, "b64encode").encode()).decode()


def b64decode(value: Any) -> str:
    """The UTF-8 text in base64, standard or URL-safe, padded or not. ValueError when it is neither base64 nor text."""
    text = re.sub(r"\s+", "", _string(value, "b64decode")).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except UnicodeDecodeError:
        raise ValueError("b64decode: the decoded bytes are not UTF-8 text") from None
    except (binascii.Error, ValueError):
        raise ValueError("b64decode: this is not base64") from None


def from_json(value: Any) -> Any:
    """JSON text as data (RFC 8259: no NaN, no Infinity)."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(_string(value, "from_json"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("from_json: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"from_json: {error}") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """Data as JSON text, compact, or indented by so many blanks."""
    if indent is not None and not 0 <= indent <= 16:
        raise ValueError("to_json: an indent has 0 to 16 blanks")
    return json_text(value, indent)


def from_yaml(value: Any) -> Any:
    """YAML text as data, by the rules of playbooks: plain scalars are JSON's, everything else is a string."""
    from runbook.interpreter.source import parse

    source = parse(_string(value, "from_yaml"), "")
    problem = next((problem for problem in source.problems if problem.severity == "error"), None)
    if problem is not None:
        raise ValueError(f"from_yaml: line {problem.place.line}: {problem.message}")
    return source.data


def to_yaml(value: Any) -> str:
    """Data as YAML text in block style that `from_yaml` reads back to the same."""
    from runbook.interpreter.yaml_text import write

    return write(value)


def duration(value: Any) -> Duration:
    """`5m` as a duration; a number is seconds."""
    if isinstance(value, Duration):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Duration(value)
    return parse_duration(_string(value, "duration"))


def strftime(value: Any, format: str = "%Y-%m-%dT%H:%M:%SZ", offset: str = "Z") -> str:  # noqa: A002
    """A timestamp (or Unix seconds) by strftime's directives, in UTC or at an offset like +02:00.

    Directives: a A b B d H I j m M p S f y Y u V G z Z s F T D %. Names are English.
    """
    from datetime import UTC, datetime, timedelta, timezone

    if isinstance(value, str):
        value = parse_timestamp(_string(value, "strftime"))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"strftime takes a timestamp, not {kind_of(value)}")
    if len(format) > 1000:
        raise ValueError("strftime: the format is too long")
    bad = re.search(r"%(?![aAbBdHIjmMpSfyYuVGzZsFTD%]).?", format)
    if bad is not None:
        raise ValueError(f"strftime: there is no directive {bad.group()!r}")
    zone = re.fullmatch(r"([+-])(\d\d):?(\d\d)", offset)
    if zone is None and offset not in ("Z", "UTC"):
        raise ValueError(f"strftime: {offset!r} is not an offset like +02:00")
    shift = (
        timedelta(hours=int(zone.group(2)), minutes=int(zone.group(3))) * (-1 if zone.group(1) == "-" else 1)
        if zone
        else timedelta()
    )
    try:
        moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(value))).astimezone(
            timezone(shift) if shift else UTC
        )
    except (OverflowError, ValueError):
        raise ValueError("strftime: the moment lies outside the years 1 to 9999") from None
    return moment.strftime(format.replace("%s", str(math.floor(float(value)))))


def human_duration(value: Any) -> str:
    """Seconds for people, two units: `350ms`, `4.2s`, `4m 10s`, `2h 5m`, `3d 4h`."""
    if isinstance(value, str):
        value = parse_duration(_string(value, "human_duration"))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"human_duration takes seconds, not {kind_of(value)}")
    sign, seconds = ("-", -float(value)) if value < 0 else ("", float(value))
    if seconds < 0.9995:
        return f"{sign}{round(seconds * 1000)}ms" if seconds else "0s"
    if seconds < 9.95:
        return f"{sign}{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(units) if whole >= size)
    words = []
    for unit, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        if count:
            words.append(f"{count}{unit}")
    return sign + " ".join(words)


def stages(items: Any, *upto: Any) -> list[list[Any]]:
    """The items cut into the stages of a roll-out. Each size says how many are done by the stage's end: a number, or a
    share of all ("25%", rounded up). A stage that would add nothing is left out; what no stage reaches stays out."""
    if not isinstance(items, (list, tuple)):
        raise TypeError(f"stages takes a list, not {kind_of(items)}")
    if not upto:
        raise ValueError("stages needs at least one size, as in stages(1, '25%', '100%')")
    cut: list[list[Any]] = []
    done, before = 0, 0
    for size in upto:
        reach = _reach(size, len(items))
        if reach < before and reach < len(items):
            raise ValueError("stages: each size says how many are done by then, so it cannot shrink")
        before = max(before, reach)
        if reach > done:
            cut.append(list(items[done:reach]))
            done = reach
    return cut


def _reach(size: Any, total: int) -> int:
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return min(size, total)
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", size) if isinstance(size, str) else None
    if share is None or not 0 < float(share.group(1)) <= 100:
        raise ValueError(f"stages: {size!r} is neither a number of items nor a share like '25%'")
    return min(total, math.ceil(total * float(share.group(1)) / 100 - 1e-9))


def regex_search(
    value: Any, pattern: str, group: int | str = 0, ignorecase: bool = False, multiline: bool = False
) -> str | None:
    """The first match of a Python regular expression, or one of its groups; null when there is none."""
    from runbook.interpreter.patterns import checked

    text = _string(value, "regex_search")
    try:
        ready = checked(_string(pattern, "regex_search"), len(text), ignorecase, multiline)
    except ValueError as error:
        raise ValueError(f"regex_search: {error}") from None
    found = ready.search(text)
    if found is None:
        return None
    try:
        return found.group(group)
    except IndexError:
        raise ValueError(f"regex_search: the pattern has no group {group!r}") from None


def basename(value: Any) -> str:
    """The last part of a path."""
    return posixpath.basename(_string(value, "basename"))


def dirname(value: Any) -> str:
    """A path without its last part."""
    return posixpath.dirname(_string(value, "dirname"))


def shell_quote(value: Any) -> str:
    """One word of a POSIX shell, whatever is in it; a list becomes words."""
    import shlex

    if isinstance(value, (list, tuple)):
        return " ".join(map(shell_quote, value))
    return shlex.quote(_no_nul(value, "shell_quote"))


def sql_identifier(value: Any) -> str:
    """A quoted PostgreSQL identifier; a list of them is joined by dots. PostgreSQL manual 4.1.1: 63 bytes."""
    if isinstance(value, (list, tuple)):
        return ".".join(map(sql_identifier, value))
    text = _no_nul(_string(value, "sql_identifier"), "sql_identifier")
    if not text or len(text.encode()) > 63:
        raise ValueError("sql_identifier: an identifier has 1 to 63 bytes")
    return '"' + text.replace('"', '""') + '"'


def sql_literal(value: Any) -> str:
    """A PostgreSQL literal (manual 4.1.2): text quoted, as E'' with a backslash in it; numbers, booleans, NULL."""
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)) and not isinstance(value, (Duration, Timestamp)):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("sql_literal: not a finite number")
        return text_of(value)
    if not isinstance(value, (str, Duration, Timestamp)):
        raise TypeError(f"sql_literal takes a string, number, boolean or null, not {kind_of(value)}")
    text = _no_nul(value, "sql_literal").replace("'", "''")
    return "E'" + text.replace("\\", "\\\\") + "'" if "\\" in text else f"'{text}'"


def promql_quote(value: Any) -> str:
    """A PromQL string in double quotes (Go's escapes). It is not escaped as a regular expression."""
    text = _no_nul(value, "promql_quote").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x01-\x1f\x7f]", lambda char: f"\\x{ord(char.group()):02x}", text.replace("\n", "\\n")) + '"'


def _no_nul(value: Any, filter_: str) -> str:
    text = text_of(value)
    if "\0" in text:
        raise ValueError(f"{filter_}: a NUL character cannot be passed on")
    return str.__str__(text)


OWN: Final[Mapping[str, Callable[..., Any]]] = {
    "b64decode": b64decode,
    "b64encode": b64encode,
    "from_json": from_json,
    "to_json": to_json,
    "tojson": to_json,  # Jinja's escapes HTML
    "from_yaml": from_yaml,
    "to_yaml": to_yaml,
    "duration": duration,
    "strftime": strftime,
    "human_duration": human_duration,
    "stages": stages,
    "regex_search": regex_search,
    "basename": basename,
    "dirname": dirname,
    "shell_quote": shell_quote,
    "sql_identifier": sql_identifier,
    "sql_literal": sql_literal,
    "promql_quote": promql_quote,
    "string": text_of,
}
