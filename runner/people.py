"""What answers of people amount to: pure rules over a question and the answers so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runbook.interpreter.effects import Fault, Question, Status
from runbook.interpreter.frozen import frozen
from runbook.interpreter.times import Timestamp

YES = frozenset({"approve", "approved", "yes", "y", "ok"})
NO = frozenset({"decline", "declined", "reject", "no", "n"})


@frozen
class Answer:
    """One person's answer. `items`: of a checklist, `{text, checked, note}` each. `at`: Unix time.

    `scenario`: whose word it is in a rehearsal, where it is no person's; asked again, it would say the same.
    """

    choice: str
    by: str
    at: float
    comment: str = ""
    items: tuple[Mapping[str, Any], ...] = ()
    scenario: str = ""

    def to_wire(self) -> dict[str, Any]:
        return {
            "choice": self.choice,
            "by": self.by,
            "at": self.at,
            "comment": self.comment,
            "items": [dict(item) for item in self.items],
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Answer:
        return cls(
            str(wire.get("choice", "")),
            str(wire.get("by", "")),
            float(wire.get("at", 0.0)),
            str(wire.get("comment", "")),
            tuple(wire.get("items", ())),
        )


@frozen
class Verdict:
    """What a question was decided to."""

    status: Status
    outputs: Mapping[str, Any]
    error: Fault | None = None


def choices(question: Question) -> tuple[str, ...]:
    """What can be answered."""
    return choices_of(question.kind, question.options)


def choices_of(kind: str, options: Any) -> tuple[str, ...]:
    """What can be answered to a question of this kind. `options`: as it was asked with."""
    match kind:
        case "approve":
            return ("approve", "decline")
        case "checklist":
            return ("all", "none")
        case _:
            return tuple(map(str, (options or {}).get("choices") or ()))


def items(options: Mapping[str, Any]) -> list[str]:
    """What a checklist lists, over all its sections; a section may be one sentence alone."""
    sections = options.get("sections") or {}
    lists = [listed if isinstance(listed, list | tuple) else [listed] for listed in sections.values()]
    return [str(text) for listed in lists for text in listed]


def refusal(question: Question, answer: Answer, given: Sequence[Answer], initiator: str) -> str | None:
    """Why this answer does not count; None when it does."""
    options = question.options
    if question.kind == "approve":
        approvers = [str(name) for name in options.get("approvers") or ["any"]]
        if answer.choice.lower() not in YES | NO:
            return f"{answer.choice!r} is no answer: approve or decline"
        if "any" not in approvers and answer.by not in approvers:
            return f"{answer.by} may not approve this: {', '.join(approvers)} may"
        if options.get("not_initiator") and answer.by == initiator and answer.choice.lower() in YES:
            return f"{answer.by} started this run and may not approve it"
        if any(other.by == answer.by for other in given):
            return f"{answer.by} has answered already"
        return None
    if question.kind == "checklist":
        if answer.items or answer.choice.lower() in ("all", "none"):
            return None
        return "answer a checklist item by item, or with `all` or `none`"
    if answer.choice not in choices(question):
        return f"{answer.choice!r} is none of the choices: {', '.join(choices(question))}"
    return None


def verdict(question: Question, given: Sequence[Answer]) -> Verdict | None:
    """What the answers so far decide; None: more people are waited for."""
    if not given:
        return None
    last = given[-1]
    if question.kind == "approve":
        return _approval(question, given)
    if question.kind == "checklist":
        return _checklist(question, last)
    outputs = {"choice": last.choice, "by": last.by, "at": Timestamp(last.at), "comment": last.comment}
    return Verdict("succeeded", outputs)


def progress(question: Question, given: Sequence[Answer], initiator: str = "") -> str:
    """How far an approval of several people is: `1 of 2; still asked: bob`. '' before the first, and once decided."""
    if question.kind != "approve" or not given or verdict(question, given) is not None:
        return ""
    options, people = question.options, {answer.by for answer in given}
    named = [str(name) for name in options.get("approvers") or ["any"]]
    barred = {initiator} if options.get("not_initiator") else set()
    left = "anybody else" if "any" in named else ", ".join(name for name in named if name not in people | barred)
    return f"{len(people)} of {options.get('by') or 1}; still asked: {left}"


def _approval(question: Question, given: Sequence[Answer]) -> Verdict | None:
    last = given[-1]
    if last.choice.lower() in NO:
        why = f": {last.comment}" if last.comment else ""
        outputs = {"by": [last.by], "at": Timestamp(last.at), "comment": last.comment}
        return Verdict("declined", outputs, Fault(f"{last.by} declined{why}", kind="declined"))
    people = [answer.by for answer in given]
    if len(set(people)) < int(question.options.get("by") or 1):
        return None
    comment = "; ".join(answer.comment for answer in given if answer.comment)
    return Verdict("succeeded", {"by": people, "at": Timestamp(last.at), "comment": comment})


def _checklist(question: Question, answer: Answer) -> Verdict:
    texts = items(question.options)
    ticked = {str(item.get("text")): item for item in answer.items}
    everything = answer.choice.lower() == "all"
    answers = [
        {
            "text": text,
            "checked": bool(ticked.get(text, {}).get("checked", everything)),
            "note": str(ticked.get(text, {}).get("note", "")),
            "by": answer.by,
            "at": Timestamp(answer.at),
        }
        for text in texts
    ]
    still_open = [str(item["text"]) for item in answers if not item["checked"]]
    outputs = {"answers": answers, "unchecked": len(still_open)}
    allowed = int(question.options.get("allow_unchecked") or 0)
    if len(still_open) > allowed:
        named = "; ".join(still_open[:5])
        message = f"{len(still_open)} items are not checked (at most {allowed} may be open): {named}"
        return Verdict("failed", outputs, Fault(message))
    return Verdict("succeeded", outputs)
