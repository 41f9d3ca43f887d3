"""Holding a run against the plan that it applies: only calls that the plan holds, on objects that have not moved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from runbook.interpreter.changes import plain
from runbook.interpreter.effects import Call, Fault
from runbook.interpreter.values import to_wire
from runbook.runner.plan import Plan, Row

INDEX = re.compile(r"\[(\d+)\]")
BACK = re.compile(r"(?:!(?:undo|temporary)|@undo\[\d+\])\[\d+\]/")
"""In the key of the author's undo steps: the number of the change that they take back (interpreter/effects.py)."""
HINT = "make the plan again, look at it, apply that one"


class Guard:
    """Asked before each intent is written. Reads and checks always pass; so does what takes back what this run itself
    did: inverses, and the author's undo steps.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = {row.key: row for row in plan.rows}

    def refusal(self, call: Call, version: str | None) -> Fault | None:
        """Why this call must not be made; None when the plan holds it. `version`: the fingerprint of its object."""
        key = plain(call.op)  # what a resume finishes stands for the first try
        if call.effect not in ("change", "opaque", "notify") or call.inverse or BACK.search(key):
            return None
        row = self._row(key)
        if row is None or row.action != call.action or row.verdict == "skip":
            return _refused(f"the plan does not hold {call.action} at {call.op}")
        if not row.maybe and not _agree(row.args, to_wire(dict(call.args))):
            return _refused(f"{call.action} at {call.op} has other arguments than in the plan")
        if row.verdict == "same" and version is not None and not row.maybe:
            return _refused(f"what {call.op} looks at was already so when the plan was made, and is not any more")
        if row.fingerprint is not None and version is not None and version != row.fingerprint:
            return _refused(f"what {call.op} would change has moved since the plan was made")
        return None

    def _row(self, key: str) -> Row | None:
        """The row of a key; of an unknown number of iterations the plan holds the first one."""
        if key in self._rows:
            return self._rows[key]
        parts = INDEX.split(key)
        for numbers in product(*((number, "0") for number in parts[1::2])):
            parts[1::2] = numbers
            row = self._rows.get("".join(f"[{part}]" if at % 2 else part for at, part in enumerate(parts)))
            if row is not None and row.maybe:
                return row
        return None


def _refused(message: str) -> Fault:
    return Fault(message, kind="refused", hint=HINT)


def _agree(planned: Any, given: Any) -> bool:
    """Whether arguments are the planned ones. What was not known when the plan was made agrees with anything."""
    if isinstance(planned, Mapping) and "$unknown" in planned:
        return True
    if isinstance(planned, Mapping) and isinstance(given, Mapping):
        return planned.keys() == given.keys() and all(_agree(item, given[key]) for key, item in planned.items())
    if isinstance(planned, list) and isinstance(given, list):
        return len(planned) == len(given) and all(map(_agree, planned, given))
    return type(planned) is type(given) and bool(planned == given)
