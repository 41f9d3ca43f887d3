"""Holding a run against the plan that it applies: only calls that the plan holds, on objects that have not moved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runbook.interpreter.effects import Call, Fault
from runbook.interpreter.values import to_wire
from runbook.runner.plan import Plan, Row

INDEX = re.compile(r"\[\d+\]")
HINT = "make the plan again, look at it, apply that one"


class Guard:
    """Asked before each intent is written. Reads and checks always pass; so do inverses of what this run itself did."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = {row.key: row for row in plan.rows}

    def refusal(self, call: Call, version: str | None) -> Fault | None:
        """Why this call must not be made; None when the plan holds it. `version`: the fingerprint of its object."""
        if call.effect not in ("change", "opaque", "notify") or call.inverse:
            return None
        row = self._row(call.op)
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
        row = self._rows.get(key)
        if row is None:
            first = self._rows.get(INDEX.sub("[0]", key))
            row = first if first is not None and first.maybe else None
        return row


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
