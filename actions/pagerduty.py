"""pagerduty.*: open and close an incident by the Events API v2 (developer.pagerduty.com: Send an alert event)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from runbook.actions import _http
from runbook.contract import Context, Notify, Outputs, PermanentError, param

EVENTS = "https://events.pagerduty.com/v2/enqueue"
SUMMARY = 1024  # characters that the API takes
DEDUP = "One incident per key; the run's id if not given."


@dataclass(frozen=True, kw_only=True)
class TriggerArgs:
    """Parameters of pagerduty.trigger."""

    routing_key: str | None = param("Integration key of the service.", secret=True, family=True)
    summary: str = param("What happened, in one line.")
    severity: Literal["critical", "error", "warning", "info"] = param("How bad it is.", default="critical")
    dedup_key: str | None = param(DEDUP, default=None)
    source: str = param("What is affected.", default="runbook")
    details: dict[str, Any] = param("Anything else that helps, shown as a table.", default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResolveArgs:
    """Parameters of pagerduty.resolve."""

    routing_key: str | None = param("Integration key of the service.", secret=True, family=True)
    dedup_key: str | None = param(DEDUP, default=None)


class Trigger(Notify[TriggerArgs]):
    """Page people. The same dedup_key again adds to the open incident, so that repeating it wakes nobody twice."""

    name = "pagerduty.trigger"
    returns = {"dedup_key": "the incident's key"}

    def check(self, args: TriggerArgs) -> Iterator[str]:
        yield from _key_problems(args.dedup_key)

    def run(self, args: TriggerArgs, ctx: Context) -> Outputs:
        summary = args.summary if len(args.summary) <= SUMMARY else args.summary[: SUMMARY - 1] + "…"
        payload = {"summary": summary, "severity": args.severity, "source": args.source, "custom_details": args.details}
        return _send(ctx, "trigger", args.routing_key, args.dedup_key, {"payload": payload, "client": "runbook"})


class Resolve(Notify[ResolveArgs]):
    """Close the incident of a key; none open under it is no error."""

    name = "pagerduty.resolve"
    returns = {"dedup_key": "the incident's key"}

    def check(self, args: ResolveArgs) -> Iterator[str]:
        yield from _key_problems(args.dedup_key)

    def run(self, args: ResolveArgs, ctx: Context) -> Outputs:
        return _send(ctx, "resolve", args.routing_key, args.dedup_key, {})


def _key_problems(key: str | None) -> Iterator[str]:
    if key is not None and len(key) > 255:
        yield "dedup_key: at most 255 characters"


def _send(ctx: Context, what: str, routing_key: str | None, dedup_key: str | None, rest: dict[str, Any]) -> Outputs:
    if not routing_key:
        raise PermanentError("routing_key: is not there", hint="set the secret that the playbook names")
    key = dedup_key or ctx.run_id
    event = {"routing_key": routing_key, "event_action": what, "dedup_key": key, **rest}
    reply = _http.send_json(ctx, "POST", ctx.address("pagerduty", EVENTS), event)
    if reply.status != 202:
        raise _http.refuse(reply, "PagerDuty")
    answer = reply.json()
    return {"dedup_key": str(answer.get("dedup_key", key)) if isinstance(answer, dict) else key}


ACTIONS = (Trigger, Resolve)
