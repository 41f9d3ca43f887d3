"""A question of `manual.*` as its action describes it: its parameters typed and checked before anybody is asked."""

from __future__ import annotations

from dataclasses import replace

from runbook.contract import PermanentError
from runbook.interpreter import answerable
from runbook.interpreter.effects import Question


def typed(question: Question, initiator: str = "") -> Question:
    """The question with typed parameters; what is not known yet (previews) stays so. Others come back as they are.

    `initiator`: who started the run ('' = nobody knows). PermanentError says why nobody could answer it.
    """
    if question.kind not in ("approve", "choose", "checklist"):
        return question
    from runbook.runner import parameters, registry

    action = registry.find(f"manual.{question.kind}")
    args = parameters.parse(action, question.options)
    wrong = list(action().check(args))
    options = {item.wire: getattr(args, item.field.name) for item in parameters.parameters(action.args)}
    if not wrong and question.kind == "approve":
        wrong += answerable.without(initiator, options)
    if wrong:
        raise PermanentError("; ".join(wrong))
    text = options["message"]
    return replace(question, text=text if isinstance(text, str) else "", options=options)
