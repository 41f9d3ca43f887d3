"""A plan: what a run would do, as data. Made by `preview`, shown, saved, and held against the run that applies it.

Secrets stand in it as seals that print masked; observations that hold secret values are fingerprints (HMACs) only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, Literal

from runbook.interpreter.errors import InvalidError
from runbook.interpreter.frozen import frozen
from runbook.runner.diff import Difference

FORMAT = 1
LIFETIME = 3600.0
"""Seconds until a saved plan expires: an incident moves on, and so does what was approved."""

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
    """What a run would do, made at `made` (Unix seconds). `missing`: rights, tools, credentials that it would lack."""

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
        """Read a saved plan. InvalidError for anything else."""
        try:
            data = json.loads(text)
            if data.pop("plan") != FORMAT:
                raise InvalidError("this plan was saved by another version of runbook", hint="make the plan again")
            rows = tuple(
                Row(**{**_ROW_DEFAULTS, **row, "diff": tuple(map(Difference.from_data, row.get("diff", ())))})
                for row in data.pop("rows")
            )
            for name in ("missing", "warnings", "locks"):
                data[name] = tuple(data[name])
            return Plan(rows=rows, **data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidError(
                "this is not a saved plan", hint="make one with `runbook plan FILE -o plan.json`"
            ) from error


_ROW_DEFAULTS: Mapping[str, Any] = {"id": "", "depth": 0, "verdict": "block"}
