"""Outcomes are values: what became of a step, a phase, or a run. Nothing that the world does is an exception."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Any, Literal

from runbook.interpreter.effects import Fault, Record, Status
from runbook.interpreter.frozen import frozen
from runbook.interpreter.unknown import Unknown

TIME_OVER = "the time was over"
"""Where nothing more can be said of a stop."""

FailureKind = Literal["none", "failed", "timed_out", "cancelled", "in_doubt", "refused"]


@frozen
class Outcome:
    """What became of a step, a block, a phase or the run.

    `by` names the box that stopped it while that box is still further out: only its owner may swallow the stop. `seq`
    is the number of the record that decided it ("first" is always first in the journal), `at` the running time and
    `wall` the Unix time when it ended. `kind`, `step` and `path` say who is to blame (`failure.*`); where a box ended,
    step and path are ''. `others`: what went wrong in handlers. `undone`: its changes were taken back. `unwound`:
    clean-up was played inside, and nobody has looked whether work was stopped meanwhile. In previews `sure` is False
    where it may turn out otherwise, `open` says that it was not even tried (a change, a message, a person's answer),
    `excused` that then its failure would stop nothing, and `perhaps` that nobody knows whether it runs at all.
    """

    status: Status = "succeeded"
    outputs: Any = field(default_factory=dict)
    error: Fault | None = None
    by: str | None = None
    seq: int = 0
    at: float = 0.0
    wall: float = 0.0
    kind: FailureKind = "none"
    step: str = ""
    path: str = ""
    tolerated: bool = False
    others: tuple[Fault, ...] = ()
    sure: bool = True
    perhaps: bool = False
    open: bool = False
    excused: bool = False
    undone: bool = False
    unwound: bool = False
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether what comes after goes on. A notification that is still `pending` is in nobody's way."""
        return self.tolerated or self.status in ("succeeded", "skipped", "pending")


def stopped(record: Record, message: str = "", outputs: Any = None) -> Outcome:
    """The outcome of a record that a box ended."""
    assert record.by is not None
    kind: Literal["timed_out", "cancelled"] = "timed_out" if record.status == "timed_out" else "cancelled"
    error = record.error or Fault(
        message or (TIME_OVER if kind == "timed_out" else "it was cancelled"), kind=_STOPS[kind]
    )
    shown = {} if outputs is None else outputs
    return Outcome(kind, shown, error, record.by, record.seq, record.at, record.wall, kind, sure=record.sure)


def untried(record: Record) -> bool:
    """Whether a preview did not do what this is the record of."""
    return not record.sure and (record.changed or isinstance(record.outputs, Unknown))


_STOPS: Mapping[str, str] = {"timed_out": "timeout", "cancelled": "cancelled"}


def failed(error: Fault | str, record: Record, step: str = "", path: str = "") -> Outcome:
    """A failure decided at `record`; the step at `path` is to blame. A plain text is an expression's error."""
    fault = Fault(error, kind="expression") if isinstance(error, str) else error
    return Outcome("failed", {}, fault, None, record.seq, record.at, record.wall, "failed", step, path)


def worst(bad: Iterable[Outcome]) -> Outcome:
    """What a block with these failed children fails with: an outer stop before a failure, the earlier before the later.

    What went wrong in handlers stays with it, so that no `continue` further out swallows that.
    """
    ordered = sorted(bad, key=lambda out: (out.by is None, out.seq, out.path))
    others = tuple(fault for out in ordered for fault in out.others)
    first = ordered[0] if ordered[0].by is not None else replace(ordered[0], status="failed")
    return replace(first, outputs={}, others=others, tolerated=False, undone=False)


def error_view(error: Fault | None, attempt: int = 1) -> dict[str, Any] | None:
    """`steps.<id>.error` and `failure.error`."""
    if error is None:
        return None
    return {
        "message": error.message,
        "kind": error.kind,
        "temporary": error.temporary,
        "attempt": max(error.attempt, attempt),
    }


def failure_view(out: Outcome | None, undo: str = "none", others: Iterable[Fault] = ()) -> dict[str, Any]:
    """`failure`, always a map. `undo` is none, succeeded or failed."""
    if out is None or out.ok:
        nothing = {"message": "", "kind": "none", "temporary": False, "attempt": 0}
        return {
            "kind": "none",
            "step": "",
            "path": "",
            "error": nothing,
            "undo": undo,
            "others": [error_view(o) for o in others],
        }
    error = error_view(out.error or Fault(out.status), out.attempts)
    return {
        "kind": out.kind,
        "step": out.step,
        "path": out.path,
        "error": error,
        "undo": undo,
        "others": [error_view(o) for o in others],
    }
