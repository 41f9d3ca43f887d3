"""A plan: what a run would do, as data. Made by `preview`, shown, saved, and held against the run that applies it.

Secrets stand in it as seals that print masked; observations that hold secret values are fingerprints (HMACs) only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from typing import Any, Literal, get_args

from runbook.interpreter.errors import InvalidError
from runbook.interpreter.frozen import frozen
from runbook.runner.diff import Difference

FORMAT = 1
LIFETIME = 3600.0
"""Seconds until a saved plan expires: an incident moves on, and so does what was approved."""
SKEW = 300.0
"""Seconds by which another machine's clock may be ahead. A plan made later than that would not expire in time."""

Verdict = Literal[
    "change",
    "same",
    "read",
    "yes",
    "no",
    "skip",
    "opaque",
    "notify",
    "ask",
    "wait",
    "local",
    "block",
    "failed",
    "forbidden",
]
"""What a row says. change: would change; same: already so; read: was read; yes/no: a check's verdict as of now;
skip: `when` is false; opaque: cannot be previewed; block: holds other rows; failed: could not be looked at."""

BEHIND = "as of now, before the planned changes"
"""What a row's `detail` says where something was looked at behind a planned change."""


@frozen
class Row:
    """One step of a plan, in the order in which it would begin.

    `key` is the step's key (calls: without attempt), `maybe` that a decision above it is not known yet, `fingerprint`
    what makes the plan stale when it differs (None = never), `undo` how a change is taken back: yes, again, author,
    none (accepted), no (irreversible), unknown.
    """

    key: str
    id: str
    depth: int
    verdict: Verdict
    name: str = ""
    kind: str = ""
    action: str = ""
    effect: str = ""
    args: Any = None
    maybe: bool = False
    diff: tuple[Difference, ...] = ()
    computed: str | None = None
    undo: str = ""
    fingerprint: str | None = None
    detail: str = ""
    error: str = ""
    hint: str = ""
    seconds: float = 0.0
    tolerated: bool = False

    @property
    def effectful(self) -> bool:
        """Whether a run that reaches this row changes or tells something outside."""
        return self.effect in ("change", "opaque", "notify")


@frozen
class Plan:
    """What a run would do, made at `made` (Unix seconds) in `folder`: there its paths lead to files.

    `missing`: rights, tools, credentials that it would lack.
    """

    name: str
    file: str
    files: Mapping[str, str]  # path -> sha256 of its text
    inputs: Mapping[str, Any]  # wire
    rows: tuple[Row, ...]
    made: float
    initiator: str
    version: str
    work_seconds: float | None
    cleanup_seconds: float | None
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    outcome: str = "succeeded"
    error: str = ""
    simulated: bool = False
    locks: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def expires(self) -> float:
        """Unix seconds."""
        return self.made + LIFETIME

    @property
    def changes(self) -> tuple[Row, ...]:
        """The rows that would change something."""
        return tuple(row for row in self.rows if row.verdict == "change")

    def row(self, key: str) -> Row | None:
        """The row of a step key (an attempt's key is cut)."""
        return next((row for row in self.rows if row.key == key), None)

    def to_json(self) -> str:
        """As a file."""
        data = asdict(self)
        data["rows"] = [
            {
                k: v
                for k, v in {**asdict(row), "diff": [d.to_data() for d in row.diff]}.items()
                if v not in ("", None, [], 0.0, False)
            }
            for row in self.rows
        ]
        return json.dumps({"plan": FORMAT, **data}, ensure_ascii=False, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a saved plan. InvalidError for anything else, which names the field that is wrong."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidError("this is not a saved plan", hint=_HINT) from error
        if not isinstance(data, dict) or "plan" not in data:
            raise InvalidError("this is not a saved plan", hint=_HINT)
        if data.pop("plan") != FORMAT:
            raise InvalidError("this plan was saved by another version of runbook", hint="make the plan again")
        _check(data, _PLAN, "")
        rows = [{**_ROW_DEFAULTS, **row} for row in data.pop("rows")]
        for number, row in enumerate(rows):
            _check(row, _ROW, f"rows[{number}].")
            for place, leaf in enumerate(row["diff"]):
                _check(leaf, _LEAF, f"rows[{number}].diff[{place}].")
            row["diff"] = tuple(map(Difference.from_data, row["diff"]))
        lists = {name: tuple(data[name]) for name in ("missing", "warnings", "locks")}
        return Plan(rows=tuple(Row(**row) for row in rows), **{**data, **lists})


_HINT = "make one with `runbook plan FILE -o plan.json`"
_ROW_DEFAULTS: Mapping[str, Any] = {"id": "", "depth": 0, "verdict": "block", "diff": ()}

Kind = tuple[str, Callable[[Any], bool]]
"""What a field holds, in words, and whether a value is that."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_TEXT: Kind = ("text", lambda value: isinstance(value, str))
_TEXT_OR_NULL: Kind = ("text or null", lambda value: value is None or isinstance(value, str))
_FLAG: Kind = ("true or false", lambda value: isinstance(value, bool))
_NUMBER: Kind = ("a number from 0", _number)
_NUMBER_OR_NULL: Kind = ("a number from 0, or null", lambda value: value is None or _number(value))
_TEXTS: Kind = ("a list of texts", _texts)
_MAP: Kind = ("a map", lambda value: isinstance(value, dict))
_MAPS: Kind = (
    "a list of maps",
    lambda value: isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value),
)
_ANY: Kind = ("anything", lambda _: True)

_PLAN: Mapping[str, Kind] = {
    **dict.fromkeys(("name", "file", "folder", "initiator", "version", "outcome", "error"), _TEXT),
    **dict.fromkeys(("missing", "warnings", "locks"), _TEXTS),
    **dict.fromkeys(("work_seconds", "cleanup_seconds"), _NUMBER_OR_NULL),
    "files": ("a map of paths and digests", lambda value: isinstance(value, dict) and _texts([*value.values()])),
    "inputs": _MAP,
    "options": ("a map of texts", lambda value: isinstance(value, dict) and _texts([*value.values()])),
    "rows": _MAPS,
    "made": _NUMBER,
    "simulated": _FLAG,
}
_ROW: Mapping[str, Kind] = {
    **dict.fromkeys(("key", "id", "name", "kind", "action", "effect", "undo", "detail", "error", "hint"), _TEXT),
    **dict.fromkeys(("computed", "fingerprint"), _TEXT_OR_NULL),
    **dict.fromkeys(("maybe", "tolerated"), _FLAG),
    "verdict": ("one of " + ", ".join(get_args(Verdict)), lambda value: value in get_args(Verdict)),
    "depth": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "seconds": _NUMBER,
    "diff": _MAPS,
    "args": _ANY,
}
_LEAF: Mapping[str, Kind] = {"object": _TEXT, "path": _TEXTS, "before": _ANY, "after": _ANY}
_OPTIONAL = frozenset(_ROW) - {"key"} | {"before", "after"}


def _check(data: Mapping[str, Any], fields: Mapping[str, Kind], path: str) -> None:
    """InvalidError for the first field that is missing, unknown or no such thing."""
    for name in data:
        if name not in fields:
            raise InvalidError(f"this is not a saved plan: it has no field `{path}{name}`", hint=_HINT)
    for name, (expected, fits) in fields.items():
        if name not in data:
            if name not in _OPTIONAL or not path:
                raise InvalidError(f"this is not a saved plan: `{path}{name}` is missing", hint=_HINT)
        elif not fits(data[name]):
            raise InvalidError(f"this is not a saved plan: `{path}{name}` must be {expected}", hint=_HINT)
