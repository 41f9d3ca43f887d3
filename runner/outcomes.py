"""What the host's phases give back: values, never exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from runbook.interpreter.effects import Call, Fault
from runbook.interpreter.frozen import frozen


@frozen
class Result:
    """How a call ended. `outputs` are masked; `inverse` is sealed."""

    status: Literal["succeeded", "failed", "in_doubt"] = "succeeded"
    outputs: Any = None
    error: Fault | None = None
    changed: bool = False
    inverse: Call | None = None
    irreversible: bool = False

    @property
    def ok(self) -> bool:
        return self.status == "succeeded"


@frozen
class Intent:
    """What a change is about to do: made by reads alone, on disk before `apply`. All of it sealed.

    `origin`: the observation before the first attempt of this operation; `before`: the one before this attempt.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    inverse: Call | None = None
    origin: Mapping[str, Any] | None = None
    version: str | None = None
    irreversible: bool = False
    computed: str | None = None
    diff: tuple[Mapping[str, Any], ...] = ()  # what people see (diff.Difference as data): masked, for good

    @property
    def first(self) -> Mapping[str, Any]:
        """The observation that undo leads back to."""
        return self.before if self.origin is None else self.origin


@frozen
class Undoes:
    """The states in which an inverse may find its objects (sealed); in any other somebody else was there.

    They are those before and after each attempt of what it takes back, and those in which this run last left them.
    """

    states: tuple[Mapping[str, Any], ...]


@frozen
class Again:
    """Settled: it did not happen, or only in part, and can be applied (again); None: an opaque call, run anew."""

    intent: Intent | None = None
