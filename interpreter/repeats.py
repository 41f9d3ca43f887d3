"""`retry`, and `until`, `every`, `for`, `fail_when`: what may be repeated, and how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from runbook.interpreter.errors import Place
from runbook.interpreter.model import Bare, Poll, Retry, Seconds
from runbook.interpreter.naming import Site
from runbook.interpreter.times import Duration, parse_duration

if TYPE_CHECKING:
    from runbook.interpreter.build import Builder

POLL = 300.0  # seconds; a poll without `timeout`
_ENDED = frozenset({"result", "error"})
_POLL_KEYS = ("until", "every", "for", "fail_when")


def poll_of(
    self: Builder,
    clean: Mapping[str, Any],
    data: Mapping[str, Any],
    site: Site,
    built_in: str | None,
    effect: str,
    timeout: Seconds | None,
) -> Poll | None:
    """The poll of an action step, or None. `built_in`: the action's own `until`; `timeout`: the step's."""
    given = [key for key in _POLL_KEYS if key in clean]
    if not given and built_in is None:
        return None
    ended = site.at(words=site.words | _ENDED)

    def bare(key: str) -> Bare | None:
        return (
            self.names.bare(clean[key], self.source, self.source.place(data, key), ended, key) if key in clean else None
        )

    def duration(key: str, default: float) -> Seconds:
        return self.seconds(clean[key], data, key, site, key)[0] if key in clean else default

    until, fail_when = bare("until"), bare("fail_when")
    every, hold = duration("every", 2.0), duration("for", 0.0)
    place = self.source.place(data, given[0], of_key=True) if given else Place(self.source.file)
    if given and effect not in ("read", "check"):
        message = f"`{given[0]}` is for reads and checks, and this action is of class {effect}"
        self.problems.add(
            place, message, f"{site.path}.{given[0]}", rule="poll", hint="`retry` repeats an action that failed"
        )
        return None
    if until is None and built_in is not None:
        until = Bare(built_in, self.source.place(data))
    if until is None:
        _needs_until(self, data, site, given)
    limit = POLL if timeout is None else timeout
    if "for" in clean and isinstance(hold, float) and isinstance(limit, float) and hold >= limit:
        said = f"within its `timeout` of {Duration(limit)}" if timeout is not None else f"within {Duration(limit)}"
        self.problems.add(
            self.source.place(data, "for"),
            f"a poll that is over {said} never holds for {Duration(hold)}",
            f"{site.path}.for",
            rule="poll",
            hint="`timeout` is of the whole poll: give it more than `for`",
        )
    if "retry" in clean and until is not None:
        place = self.source.place(data, "retry", of_key=True)
        why = "`until` repeats already" if "until" in clean else f"it polls by itself (`until: {built_in}`)"
        self.problems.add(
            place,
            f"`retry` and a poll in one step: {why}",
            f"{site.path}.retry",
            rule="poll",
            hint="`timeout` and `every` bound a poll; leave `retry` out",
        )
    return Poll(until, every, hold, fail_when, limit)


def _needs_until(self: Builder, data: Mapping[str, Any], site: Site, given: list[str]) -> None:
    for key in given:
        if key in ("every", "for"):
            place = self.source.place(data, key, of_key=True)
            self.problems.add(
                place,
                f"`{key}` without `until`",
                f"{site.path}.{key}",
                rule="poll",
                hint="say what to wait for: `until: result.ok`",
            )


def retry_of(
    self: Builder,
    clean: Mapping[str, Any],
    data: Mapping[str, Any],
    site: Site,
    effect: str,
    idempotent: bool,
    polls: bool,
) -> Retry | None:
    """The retry of an action step, or None."""
    body = clean.get("retry")
    if body is None or polls:
        return None
    if effect == "ask":
        place = self.source.place(data, "retry", of_key=True)
        self.problems.add(
            place,
            "people are not asked again by `retry`",
            f"{site.path}.retry",
            rule="retry",
            hint="`timeout` bounds how long they have",
        )
        return None
    on: tuple[Literal["temporary", "timeout"], ...] = tuple(body.get("on", ("temporary", "timeout")))
    if effect == "opaque" and not idempotent and "timeout" in on:
        if "on" in body:
            place = self.source.place(body, "on")
            message = "an opaque action is not retried on time-out: it may have happened"
            self.problems.add(
                place, message, f"{site.path}.retry.on", rule="retry", hint="say `idempotent: true` if it may run twice"
            )
        on = tuple(one for one in on if one != "timeout")
    unbounded = "max_duration" in body and "max_attempts" not in body

    def seconds(key: str, default: float) -> float:
        return float(parse_duration(body[key])) if key in body else default

    return Retry(
        max_attempts=None if unbounded else int(body.get("max_attempts", 3)),
        delay=seconds("delay", 1.0),
        backoff=float(body.get("backoff", 2.0)),
        max_delay=seconds("max_delay", 30.0),
        max_duration=seconds("max_duration", 0.0) if "max_duration" in body else None,
        on=on,
    )
