"""weather.*: a flag file that says what the weather is. Uses runbook.contract and nothing else of runbook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runbook.contract import Call, Change, Check, Context, Duration, Observation, Outputs, param


@dataclass(frozen=True, kw_only=True)
class SetArgs:
    """Parameters of weather.set."""

    file: Path = param("The flag file.", path=True, family=True)
    to: Literal["sun", "rain"] = param("What it is to be.")
    for_: Duration = param("How long it lasts.", default=Duration(3600), wire="for")


class Set(Change[SetArgs]):
    """Make the weather."""

    name = "weather.set"
    returns = {"previous": "what it was, or null"}

    def observe(self, args: SetArgs, ctx: Context) -> Observation:
        now = args.file.read_text() if args.file.exists() else None
        return {f"weather:{args.file}": now}

    def expect(self, args: SetArgs, before: Observation, ctx: Context) -> Observation:
        return dict.fromkeys(before, args.to)

    def apply(self, args: SetArgs, before: Observation, ctx: Context) -> None:
        args.file.write_text(args.to)

    def inverse(self, args: SetArgs, before: Observation, op: str) -> Call | None:
        (was,) = before.values()
        return Call("weather.set", {"file": str(args.file), "to": was}) if was else None

    def outputs(self, args: SetArgs, before: Observation, after: Observation) -> Outputs:
        (was,) = before.values()
        return {"previous": was}


@dataclass(frozen=True, kw_only=True)
class DryArgs:
    """Parameters of weather.dry."""

    file: Path = param("The flag file.", path=True, family=True)


class Dry(Check[DryArgs]):
    """Is it dry?"""

    name = "weather.dry"
    rehearsed = True  # it looks at a file and reaches nothing else
    returns = {"ok": "whether it is", "message": "why not"}

    def read(self, args: DryArgs, ctx: Context) -> Outputs:
        dry = args.file.read_text() == "sun"
        return {"ok": dry, "message": "" if dry else "it rains"}


ACTIONS = (Set, Dry)
