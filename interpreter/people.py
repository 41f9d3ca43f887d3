"""Questions for people: `manual.*`, and a failure in `--interactive`. Answers are records like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from runbook.interpreter.doubt import choice_of
from runbook.interpreter.effects import Box, Fault, Question, Record
from runbook.interpreter.model import Action
from runbook.interpreter.outcome import Outcome, failed, stopped, untried
from runbook.interpreter.run import Run
from runbook.interpreter.scope import Scope
from runbook.interpreter.values import text_of

_KINDS: Mapping[str, Literal["approve", "choose", "checklist"]] = {
    "manual.approve": "approve",
    "manual.choose": "choose",
    "manual.checklist": "checklist",
}
AT_FAILURE = ("retry", "continue", "undo", "abort")


async def ask(run: Run, step: Action, scope: Scope, path: str, box: Box, args: Mapping[str, Any]) -> Outcome:
    """`manual.*`. A refusal cancels the run; inside handlers it is their failure. Too late: a choice's default."""
    kind = _KINDS[step.action]
    text = args.get("message")
    question = Question(f"{path}#1", path, kind, text if isinstance(text, str) else "", args, scope.maybe)
    record = await run.fx.ask(question, box)
    if record.status == "declined":
        return await _declined(run, step, path, box, record)
    if record.by is not None:
        default = args.get("default")
        if record.by == path and kind == "choose" and default is not None:
            taken = {"choice": text_of(default), "by": "", "at": None}
            return Outcome(outputs=taken, seq=record.seq, at=record.at, wall=record.wall)
        return stopped(record, "nobody answered in time" if record.status == "timed_out" else "")
    if record.status != "succeeded":
        return failed(record.error or Fault("the question was not answered"), record, step.id, path)
    given = {} if record.outputs is None else record.outputs  # not `or`: in a preview nobody knows the answer
    return Outcome(
        outputs=given, seq=record.seq, at=record.at, wall=record.wall, sure=record.sure, open=untried(record)
    )


async def _declined(run: Run, step: Action, path: str, box: Box, record: Record) -> Outcome:
    who = (record.outputs or {}).get("by") if isinstance(record.outputs, Mapping) else None
    fault = record.error or Fault(f"declined{f' by {who}' if who else ''}", kind="declined")
    fault = replace(fault, kind="declined")
    if run.unwinding(box):
        return failed(fault, record, step.id, path)
    await run.fx.stop(run.work, "cancelled", f"{path}: {fault.message}")
    return Outcome("cancelled", {}, fault, run.work.key, record.seq, record.at, record.wall, "cancelled", step.id, path)


def asks(run: Run, step: Action, box: Box, out: Outcome) -> bool:
    """Whether a person decides about this failure (`--interactive`): not where the playbook itself puts up with it."""
    if not run.interactive or out.ok or out.by is not None or step.effect == "notify":
        return False
    return step.on_failure.then != "continue" and not run.unwinding(box)


async def at_failure(run: Run, key: str, path: str, box: Box, out: Outcome) -> tuple[Record, str]:
    """What to do about a failed action. The answer: retry, continue, undo or abort."""
    message = out.error.message if out.error is not None else out.status
    options = {"choices": list(AT_FAILURE)}
    record = await run.fx.ask(Question(f"{key}#failure?", path, "failure", f"{path} failed: {message}", options), box)
    return record, choice_of(record)
