"""An intent without a result that observation could not settle: a person says whether it happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from runbook.interpreter.effects import Box, Call, Fault, Question, Record

if TYPE_CHECKING:
    from runbook.interpreter.run import Run

IN_DOUBT = ("repeat", "done", "fail")


async def settled(run: Run, call: Call, box: Box) -> Record:
    """A call's record, after somebody has said what to do where it is in doubt. The first record's inverse is kept."""
    first: Record | None = None
    key, repeats = call.key, 0
    while True:
        record = await run.fx.call(call if repeats == 0 else replace(call, key=key), box)
        first = first or record
        if first.inverse is not None and record.inverse is None:
            record = replace(record, inverse=first.inverse)
        if record.status != "in_doubt":
            return record
        answer, choice = await _asked(run, call, key, box.parent or box, record.error)
        if answer.by is not None:
            return replace(record, status=answer.status, by=answer.by, seq=answer.seq, at=answer.at, changed=True)
        if choice == "done":
            return replace(
                record, status="succeeded", outputs=record.outputs or {}, error=None, at=answer.at, changed=True
            )
        if choice != "repeat":
            fault = record.error or Fault("nobody knows whether it happened", kind="in_doubt")
            return replace(record, error=replace(fault, kind="in_doubt", temporary=False), at=answer.at, changed=True)
        repeats += 1
        key = f"{call.key}~{repeats}"


async def _asked(run: Run, call: Call, key: str, box: Box, why: Fault | None) -> tuple[Record, str]:
    """An intent without a result that observation could not settle. The answer: repeat, done or fail.

    `why`: what was found by looking, if anybody could look.
    """
    found = why.message if why is not None else ""
    step = f"undo of {call.step}" if call.inverse else call.step
    text = f"{step}: {found or f'nobody knows whether {call.action} happened'}"
    options = {"choices": list(IN_DOUBT), "call": key, "action": call.action, "args": call.args}
    record = await run.fx.ask(Question(f"{key}?", call.step, "in_doubt", text, options, call.maybe), box)
    return record, choice_of(record)


def choice_of(record: Record) -> str:
    """What a person chose."""
    return str(record.outputs.get("choice", "")) if isinstance(record.outputs, Mapping) else ""
