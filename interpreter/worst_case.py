"""How long a playbook can take at worst: every attempt until its limit, every delay, every handler. Pure arithmetic.

People without a time limit count nothing (the box stands still for them); a `foreach` over a list that is not written
out
counts once; notifications count nothing (they never block). What was assumed is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from runbook.interpreter.frozen import frozen
from runbook.interpreter.model import (
    Action,
    Block,
    Choose,
    Fallback,
    Foreach,
    Parallel,
    Playbook,
    Retry,
    Seconds,
    Step,
    SubPlaybook,
    Template,
)
from runbook.interpreter.times import parse_duration

LEAST_CLEANUP = 60.0
ASSUMED = 300.0  # seconds, for a time limit that a template computes


@frozen
class WorstCase:
    """Seconds: of the work, and of all clean-up on top of it. `assumes`: what could not be known, as sentences."""

    work: float
    cleanup: float
    assumes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Both, in seconds."""
        return self.work + self.cleanup

    def capped(self, limit: float | None) -> WorstCase:
        """The same with a time box around the work."""
        return self if limit is None or self.work <= limit else WorstCase(limit, self.cleanup, self.assumes)


NOTHING = WorstCase(0.0, 0.0)


def worst_case(of: Playbook | Step) -> WorstCase:
    """The longest that a playbook or a step can take, as far as it is written out."""
    if isinstance(of, Playbook):
        body = _sequence(of.steps)
        limit, said = _seconds(of.timeout, "the run's time-out")
        own = _unwinding(of)
        return _plus(body.capped(limit), own, said)
    body = _body(of)
    limit, said = (
        (None, ())
        if isinstance(of, Action) and of.timeout is None
        else _seconds(of.timeout, f"the time-out of {of.id}")
    )
    own = _unwinding(of)
    return _plus(body.capped(limit), own, said)


def phases(of: Playbook | Step) -> float:
    """The longest phase of unwinding of one scope, in seconds, before any limit: what its `cleanup` must hold."""
    return max(_phases(of), default=0.0)


def _plus(body: WorstCase, cleanup: float, said: tuple[str, ...]) -> WorstCase:
    return WorstCase(body.work, body.cleanup + cleanup, (*body.assumes, *said))


def _body(step: Step) -> WorstCase:
    if isinstance(step, Action):
        return _action(step)
    if isinstance(step, Block):
        return _sequence(step.steps)
    if isinstance(step, Parallel):
        return _at_once([worst_case(child) for child in step.steps], step.max_concurrent, step.id)
    if isinstance(step, Fallback):
        return _in_order(worst_case(child) for child in step.steps)
    if isinstance(step, Choose):
        branches = [_sequence(branch.steps) for branch in step.branches]
        return WorstCase(
            max(one.work for one in branches),
            max(one.cleanup for one in branches),
            tuple(said for one in branches for said in one.assumes),
        )
    if isinstance(step, Foreach):
        return _foreach(step)
    assert isinstance(step, SubPlaybook)
    return worst_case(step.playbook)


def _foreach(step: Foreach) -> WorstCase:
    body = _sequence(step.steps)
    if not isinstance(step.items.data, list):
        said = f"{step.id} repeats once: its items are not known before the run"
        return WorstCase(body.work, body.cleanup, (*body.assumes, said))
    return _at_once([body] * len(step.items.data), step.max_concurrent, step.id)


def _at_once(each: list[WorstCase], limit: int | Template | None, name: str) -> WorstCase:
    """Side by side, `limit` at a time. Graham's bound for a list that is worked off by m: sum/m + (1 - 1/m) longest."""
    said = tuple(dict.fromkeys(said for one in each for said in one.assumes))
    if isinstance(limit, Template):
        said = (*said, f"{name} runs one at a time: max_concurrent is not known before the run")
        limit = 1
    if not each:
        return NOTHING
    wide = len(each) if limit is None else max(1, min(limit, len(each)))
    return WorstCase(_packed([one.work for one in each], wide), _packed([one.cleanup for one in each], wide), said)


def _packed(lengths: list[float], wide: int) -> float:
    longest = max(lengths)
    if wide >= len(lengths):
        return longest
    if min(lengths) == longest:
        return longest * math.ceil(len(lengths) / wide)
    return sum(lengths) / wide + (1 - 1 / wide) * longest


def _in_order(each: Iterable[WorstCase]) -> WorstCase:
    work, cleanup, said = 0.0, 0.0, dict[str, None]()
    for one in each:
        work, cleanup = work + one.work, cleanup + one.cleanup
        said.update(dict.fromkeys(one.assumes))
    return WorstCase(work, cleanup, tuple(said))


def _sequence(steps: tuple[Step, ...]) -> WorstCase:
    """In order; what runs in the background must end by the end of its block."""
    front = _in_order(worst_case(step) for step in steps if not step.background)
    behind = [worst_case(step) for step in steps if step.background]
    if not behind:
        return front
    return WorstCase(
        max(front.work, *(one.work for one in behind)),
        front.cleanup + sum(one.cleanup for one in behind),
        (*front.assumes, *(said for one in behind for said in one.assumes)),
    )


def _action(step: Action) -> WorstCase:
    if step.effect == "notify":
        return NOTHING
    if step.effect == "ask":
        limit, said = _seconds(step.timeout, f"the time-out of {step.id}")
        return (
            WorstCase(limit, 0.0, said)
            if limit is not None
            else WorstCase(0.0, 0.0, (f"{step.id}: a person's time is not counted",))
        )
    if step.action == "flow.wait":
        wanted = step.with_.data.get("for") if isinstance(step.with_.data, dict) else None
        if isinstance(wanted, str) and "{{" not in wanted:
            return WorstCase(float(parse_duration(wanted)), 0.0)
        return WorstCase(ASSUMED, 0.0, (f"{step.id} waits {ASSUMED:g}s: its time is not known before the run",))
    if step.poll is not None and step.poll.until is not None:
        limit, said = _seconds(step.poll.timeout, f"the time-out of {step.id}")
        return WorstCase(limit or 0.0, 0.0, said)
    limit, said = _seconds(step.attempt, f"the time-out of {step.id}")
    attempt = limit if limit is not None else ASSUMED
    return WorstCase(attempt if step.retry is None else _attempts(step.retry, attempt), 0.0, said)


def _attempts(retry: Retry, attempt: float) -> float:
    """All attempts and the delays between them; jitter adds a fifth at most."""
    if retry.max_attempts is None:
        return retry.max_duration or attempt
    total, delay = attempt, retry.delay
    for _ in range(min(retry.max_attempts, 10_000) - 1):
        total += attempt + min(delay, retry.max_delay) * 1.2
        delay = min(delay * retry.backoff, retry.max_delay)
    return total if retry.max_duration is None else min(total, retry.max_duration)


def _unwinding(of: Playbook | Step) -> float:
    return sum(min(one, of.cleanup) for one in _phases(of))


def _phases(of: Playbook | Step) -> Iterator[float]:
    """What each phase that there is takes at most, in seconds."""
    if of.on_failure.undo:
        yield undoing(of.steps if isinstance(of, Playbook) else (of,))
    if of.on_failure.steps:
        yield _sequence(of.on_failure.steps).total
    inside = of.steps if isinstance(of, Playbook) else _children(of)
    returned = tuple(child for child in inside if child.temporary)
    if returned:
        yield undoing(returned)
    if of.finally_:
        yield _sequence(of.finally_).total


def undoing(steps: tuple[Step, ...]) -> float:
    """Seconds. Each inverse takes at most what an attempt of its step may take; the author's steps what they take."""
    total = 0.0
    for step in steps:
        if step.undo.kind == "steps":
            total += _sequence(step.undo.steps).total
        elif isinstance(step, Action):
            if step.effect == "change" or step.undo.kind == "again":
                total += _seconds(step.attempt, "")[0] or ASSUMED
        elif isinstance(step, SubPlaybook):
            total += undoing(step.playbook.steps)
        else:
            many = len(step.items.data) if isinstance(step, Foreach) and isinstance(step.items.data, list) else 1
            total += many * undoing(tuple(_children(step)))
    return total


def _children(step: Step) -> Iterator[Step]:
    if isinstance(step, Choose):
        for branch in step.branches:
            yield from branch.steps
    elif not isinstance(step, Action | SubPlaybook):
        yield from step.steps


def _seconds(value: Seconds | None, what: str) -> tuple[float | None, tuple[str, ...]]:
    if isinstance(value, Template):
        return ASSUMED, (f"{what} counts {ASSUMED:g}s: it is computed in the run",)
    return value, ()
