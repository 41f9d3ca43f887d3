"""One action to its outcome: attempts with retry, polls, waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runbook.interpreter import people
from runbook.interpreter.changes import change_of
from runbook.interpreter.doubt import settled
from runbook.interpreter.effects import Box, Call, Fault, Record
from runbook.interpreter.expressions import ExpressionError, decide, evaluate, render
from runbook.interpreter.model import Action, Poll, Retry
from runbook.interpreter.outcome import Outcome, error_view, failed, stopped, untried
from runbook.interpreter.quoting import refuse_text
from runbook.interpreter.run import Run
from runbook.interpreter.scope import Scope, as_seconds, seconds
from runbook.interpreter.times import Duration
from runbook.interpreter.unknown import Unknown

ONCE = Retry(max_attempts=1)
TOLD_TWICE = Retry(max_attempts=2)  # language.md: notifications get two attempts
LEAST_POLL = 10.0  # an attempt of a poll gets max(every, 10 s)
LEAST_PAUSE = 0.05  # so that `every: 0s` cannot starve everybody else


async def act(run: Run, step: Action, scope: Scope, path: str, box: Box, begun: Record, args: Any = None) -> Outcome:
    """Run an action, as often as its retry or its poll say. `args`: parameters rendered before (notifications)."""
    names = scope.at(begun.at)
    try:
        if args is None:
            args = render(step.with_.data, names, lenient=step.effect == "notify")
            refuse_text(args, step.listed)
        if step.effect == "ask":
            return await people.ask(run, step, scope, path, box, args)
        if step.action == "flow.wait":
            return await _wait(run, path, box, args)
        one = _Action(run, step, scope, path, box, args)
        if step.poll is not None and step.poll.until is not None:
            return await one.poll(step.poll, begun, names)
        return await one.retry(begun, names)
    except ExpressionError as error:
        return failed(error.message, begun, step.id, path)


async def _wait(run: Run, path: str, box: Box, args: Mapping[str, Any]) -> Outcome:
    """`flow.wait`: until a recorded moment."""
    record = await run.fx.sleep(f"{path}#1", as_seconds(args.get("for")) or 0.0, box)
    if record.by is not None:
        return stopped(record)
    return Outcome(seq=record.seq, at=record.at, wall=record.wall, sure=record.sure)


class _Action:
    """The attempts of one action step. Parameters are rendered once: all attempts are one operation."""

    def __init__(self, run: Run, step: Action, scope: Scope, path: str, box: Box, args: Mapping[str, Any]) -> None:
        self.run = run
        self.step = step
        self.scope = scope
        self.path = path
        self.box = box
        self.args = args
        self.tag = ""

    async def retry(self, begun: Record, names: Mapping[str, Any]) -> Outcome:
        """Attempts until one succeeds, or none can help any more. `--interactive`: then a person decides."""
        rounds = 0
        while True:
            out = await self._attempts(begun.at, names)
            if not people.asks(self.run, self.step, self.box, out):
                return out
            record, choice = await people.at_failure(self.run, f"{self.path}{self.tag}", self.path, self.box, out)
            if record.by is not None:
                return stopped(record)
            if choice == "continue":
                return replace(out, tolerated=True)
            if choice != "retry":
                self.run.undo_all = self.run.undo_all or choice == "undo"
                return out
            rounds += 1
            self.tag, begun = f"~{rounds}", record

    async def _attempts(self, since: float, names: Mapping[str, Any]) -> Outcome:
        retry = self.step.retry or (TOLD_TWICE if self.step.effect == "notify" else ONCE)
        limit = seconds(self.step.attempt, names)
        pause, attempt = retry.delay, 1
        while True:
            key = f"{self.path}{self.tag}#{attempt}"
            one = self.run.box(key, self.box, None if limit is None else since + limit)
            record = await self.perform(key, attempt, one)
            out = self._judge(record, one, attempt, limit)
            if out.ok or out.by is not None or not self._again(retry, record, out, attempt):
                return out
            after = record.error.retry_after if record.error is not None else None
            rest = await self.run.fx.sleep(
                f"{key}+", max(min(pause, retry.max_delay), after or 0.0), self.box, jitter=True
            )
            if rest.by is not None:
                return replace(stopped(rest), error=out.error, outputs=out.outputs, attempts=attempt)
            if not rest.sure:
                return replace(out, sure=False, tolerated=True)
            since, attempt, pause = rest.at, attempt + 1, pause * retry.backoff

    def _again(self, retry: Retry, record: Record, out: Outcome, attempt: int) -> bool:
        """Whether another attempt is allowed and could help."""
        if retry.max_attempts is not None and attempt >= retry.max_attempts:
            return False
        if out.kind == "timed_out":
            return "timeout" in retry.on and (self.step.idempotent or self.step.effect != "opaque")
        return "temporary" in retry.on and out.error is not None and out.error.temporary and record.status != "in_doubt"

    def _judge(self, record: Record, one: Box, attempt: int, limit: float | None) -> Outcome:
        """What an attempt's record means, without a poll."""
        if record.by is not None and record.by != one.key:
            return replace(stopped(record, outputs=_map(record.outputs)), attempts=attempt)
        out = Outcome(
            "succeeded",
            _map(record.outputs),
            seq=record.seq,
            at=record.at,
            wall=record.wall,
            attempts=attempt,
            sure=record.sure,
            open=untried(record),
        )
        if record.by == one.key:
            fault = record.error or Fault(f"no answer within {limit:g}s", kind="timeout", temporary=True)
            out = self._blamed(out, "timed_out", replace(fault, attempt=attempt))
        elif record.status != "succeeded":
            fault = record.error or Fault(f"{self.step.action} failed")
            kind = "in_doubt" if record.status == "in_doubt" else "failed"
            out = self._blamed(out, kind, replace(fault, attempt=attempt))
        else:
            out = self._verdict(out, record)
        if not out.sure and not out.ok:
            return replace(out, tolerated=True)  # a plan goes on: it may turn out otherwise
        return out

    def _verdict(self, out: Outcome, record: Record) -> Outcome:
        """A check that says no fails its step; so does what `fail_when` finds."""
        poll = self.step.poll
        if poll is not None and poll.fail_when is not None:
            bad = decide(evaluate(poll.fail_when.source, self._result(record)))
            if bad == "yes":
                return self._blamed(
                    out, "failed", Fault(f"fail_when holds: {poll.fail_when.source}", attempt=out.attempts)
                )
            out = replace(out, sure=out.sure and bad == "no")
        if self.step.effect != "check" or not isinstance(record.outputs, Mapping):
            return out
        ok = record.outputs.get("ok", True)
        if isinstance(ok, Unknown):
            return replace(out, sure=False)
        if ok:
            return out
        message = _said(record) or f"{self.step.action} says no"
        asserted = self.step.action == "flow.assert"  # looks at nothing that could have changed by another attempt
        if asserted:
            self.run.asserted.add(record.seq)
        return self._blamed(out, "failed", Fault(message, kind="verdict", temporary=not asserted, attempt=out.attempts))

    async def poll(self, poll: Poll, begun: Record, names: Mapping[str, Any]) -> Outcome:
        """Attempts until the condition over `result` has held for long enough. Temporary errors are "not yet"."""
        assert poll.until is not None
        every, hold = seconds(poll.every, names) or 0.0, seconds(poll.hold, names) or 0.0
        since, attempt, good = begun.at, 1, None
        seen: tuple[Fault, Any] | None = None  # what the attempt before said: the one that was cut knows nothing
        while True:
            key = f"{self.path}#{attempt}"
            one = self.run.box(key, self.box, since + max(every, LEAST_POLL))
            record = await self.perform(key, attempt, one)
            if record.by is not None and record.by != one.key:
                fault, outputs = seen or (None, _map(record.outputs))
                out = replace(stopped(record, outputs=outputs), attempts=attempt)
                return out if fault is None else replace(out, error=fault)
            out = Outcome(
                "succeeded",
                _map(record.outputs),
                seq=record.seq,
                at=record.at,
                wall=record.wall,
                attempts=attempt,
                sure=record.sure,
                open=untried(record),
            )
            fault = Fault(f"not yet: {_said(record) or poll.until.source}", "timeout", temporary=True, attempt=attempt)
            if record.status != "succeeded":
                fault, good = (
                    replace(
                        record.error or Fault("no answer in time", kind="timeout", temporary=True), attempt=attempt
                    ),
                    None,
                )
                if not record.sure:
                    return replace(self._blamed(out, "failed", fault), tolerated=True)
                if record.by is None and not fault.temporary:
                    return self._blamed(out, "failed", fault)
            else:
                result = self._result(record)
                if (
                    poll.fail_when is not None
                    and decide(evaluate(poll.fail_when.source, result)) == "yes"
                    and record.sure
                ):
                    return self._blamed(
                        out, "failed", Fault(f"fail_when holds: {poll.fail_when.source}", attempt=attempt)
                    )
                verdict = decide(evaluate(poll.until.source, result))
                if verdict == "maybe" or not record.sure:
                    return replace(out, sure=False)
                good = None if verdict == "no" else record.at if good is None else good
                if good is not None and record.at - good >= hold:
                    return out
            pause = max(LEAST_PAUSE, since + every - record.at)
            if good is not None:
                pause = max(LEAST_PAUSE, min(pause, good + hold - record.at))
                fault = replace(fault, message=f"it holds, but not yet for {Duration(hold)}: {poll.until.source}")
            rest = await self.run.fx.sleep(f"{key}+", pause, self.box)
            if rest.by is not None:
                return replace(stopped(rest), error=fault, outputs=out.outputs, attempts=attempt)
            if not rest.sure:
                return replace(out, sure=False)
            since, attempt, seen = rest.at, attempt + 1, (fault, out.outputs)

    async def perform(self, key: str, attempt: int, one: Box) -> Record:
        """One call, noted in the log of changes; in doubt, a person decides."""
        step = self.step
        call = Call(
            key=key,
            op=self.path,
            step=self.path,
            action=step.action,
            args=self.args,
            effect=step.effect,
            attempt=attempt,
            idempotent=step.idempotent,
            again=step.undo.kind == "again",
            lane=step.lane,
            secret_at=step.secret_at,
            base=self.scope.book.playbook.file,
            maybe=self.scope.maybe,
            spare=self.scope.spare,
        )
        record = await settled(self.run, call, one)
        if step.effect in ("change", "opaque"):
            done = record.status == "succeeded" and step.effect == "opaque"  # nobody looked whether it was so already
            if done or record.changed or record.inverse is not None:
                self.run.log.begun.append((record.seq, self.path))
            change = change_of(record, step, self.scope, self.path, call, self.scope.held)
            if change is not None:
                self.run.log.remember(change)
        return record

    def _result(self, record: Record) -> dict[str, Any]:
        return self.scope.at(record.at, result=_map(record.outputs), error=error_view(record.error))

    def _blamed(self, out: Outcome, kind: Any, fault: Fault) -> Outcome:
        return replace(out, status=kind, kind=kind, error=fault, step=self.step.id, path=self.path)


def _said(record: Record) -> str:
    """Why not, in the action's own words."""
    said = record.outputs.get("message") if isinstance(record.outputs, Mapping) else None
    return said if isinstance(said, str) else ""


def _map(outputs: Any) -> Any:
    """What a step's `outputs` show: a map, or in a preview something unknown."""
    return {} if outputs is None else outputs
