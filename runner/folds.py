"""What each kind of event in a journal changes in a run's view. Kinds that are not here change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runbook.runner.run_tree import (
    AcceptedView,
    CallView,
    MilestoneView,
    QuestionView,
    RoundView,
    StepView,
    WarningView,
    is_inverse,
    parent_of,
    stands_for,
    step_of,
)
from runbook.runner.wording import value

if TYPE_CHECKING:
    from runbook.runner.view import Event, RunView


def node_of(view: RunView, key: str) -> StepView:
    node = view.steps.get(key)
    if node is None:
        above = parent_of(key)
        tail = key[len(above) :].lstrip("/!") if above is not None else key
        node = view.steps[key] = StepView(key=key, id=tail.strip("[]") if tail.startswith("[") else tail)
        node_of(view, above or "").children.append(node)
    return node


def _begun(view: RunView, event: Event) -> None:
    data = event.data
    view.id = data.get("run", "")
    view.name = data.get("name", "")
    view.file = data.get("file", "")
    view.defaults = frozenset(data.get("defaults") or ())
    view.inputs = data.get("inputs") or {}
    view.initiator = data.get("initiator", "")
    view.parent = data.get("parent")
    view.trigger = data.get("trigger")
    view.options = data.get("options") or {}
    view.version = data.get("version", "")
    view.simulated = bool(data.get("simulated"))
    view.world = str(data.get("place") or "")
    view.cwd = data.get("cwd", "")
    view.applied = bool(data.get("applied"))
    view.snapshot = data.get("snapshot", "")
    view.started = view.root.started = event.wall
    view.status = view.root.status = "running"


def _resumed(view: RunView, event: Event) -> None:
    view.resumed.append({**event.data, "wall": event.wall})
    later = view.open_round
    if later is not None:
        later.status, later.exit = "running", None
    if view.ended is None:
        view.status = view.root.status = "running"
        view.exit = None


def _ended(view: RunView, event: Event) -> None:
    data = event.data
    view.ended = view.root.ended = event.wall
    view.status = view.root.status = data.get("status", "")
    view.exit = data.get("exit")
    view.error = view.root.error = data.get("error")
    view.outputs = data.get("outputs")
    view.objectives = list(data.get("objectives") or ())
    view.unfinished = list(data.get("unfinished") or ())
    view.head = event.digest
    _settle(view)


def _step_started(view: RunView, event: Event) -> None:
    data = event.data
    if data.get("by") or data.get("stop"):
        return  # forbidden: it never began; its end record says why
    node = node_of(view, event.key)
    node.id = data.get("id") or node.id
    if data.get("kind") == "inverse":
        data = {**data, "name": f"take back {node.id}"}
    node.kind = data.get("kind", "")
    node.name = data.get("name") or ""
    node.action = data.get("action") or ""
    node.status = "running"
    node.background = bool(data.get("background"))
    node.milestone = data.get("milestone") or ""
    node.undo = data.get("undo") or ""
    if node.started is None:
        node.started = event.wall
    _alternatives(view, event.key)


def _alternatives(view: RunView, key: str) -> None:
    """Of a fallback's steps, all but the last that was tried were given up for the next."""
    above = view.steps.get(parent_of(key) or "")
    if above is not None and above.kind == "fallback":
        tried = [child for child in above.children if child.status != "skipped" and not child.phase]
        for child in tried:
            child.alternative = child is not tried[-1]


def _step_ended(view: RunView, event: Event) -> None:
    data = event.data
    node = node_of(view, event.key)
    node.id = data.get("id") or node.id
    node.kind = data.get("kind") or node.kind
    node.name = data.get("name") or node.name
    node.status = data.get("status", "")
    node.tolerated = bool(data.get("tolerated"))
    node.error = data.get("error")
    node.outputs = data.get("outputs")
    node.attempts = data.get("attempts") or len(node.calls)
    node.duration = data.get("duration")
    node.by = data.get("by")
    node.chosen = data.get("chosen")
    node.place = data.get("place") or ""
    node.others = list(data.get("others") or ())
    node.background = bool(data.get("background")) or node.background
    node.undone = bool(data.get("undone")) or node.undone
    node.ended = event.wall
    node.waiting = ""
    _alternatives(view, event.key)
    _iterations(view, node)
    if node.started is None and data.get("started") is not None and node.status != "skipped":
        node.started = data["started"]


def _iterations(view: RunView, node: StepView) -> None:
    """Iterations have no end record of their own: their foreach's results say what became of them."""
    results = node.outputs.get("results") if node.kind == "foreach" and isinstance(node.outputs, Mapping) else None
    for result in results if isinstance(results, list) else ():
        made = view.steps.get(f"{node.key}[{result.get('index')}]") if isinstance(result, Mapping) else None
        if made is not None:
            made.status, made.error = result.get("status", ""), result.get("error")
            made.name = _item_name(result.get("item"))
            made.ended = max((child.ended or 0.0 for child in made.children), default=node.ended or 0.0)
            made.duration = max(0.0, made.ended - made.started) if made.started is not None else None


def _call(view: RunView, event: Event) -> None:
    data = event.data
    call = view.calls.get(event.key)
    if call is None:
        step = step_of(event.key)
        call = CallView(key=event.key, op=data.get("op") or data.get("call-op") or step, started=event.wall)
        call.is_inverse = bool(data.get("undoes")) or is_inverse(step)
        view.calls[event.key] = call
        view.by_op.setdefault(call.op, []).append(call)
        node = node_of(view, step)
        node.calls.append(call)
        if call.is_inverse and node.started is None:
            node.kind, node.status, node.started = "inverse", "running", event.wall
        node.attempts = len(node.calls)
    node = node_of(view, step_of(event.key))
    call.action = data.get("action", call.action)
    node.action = node.action or call.action
    call.effect = data.get("effect", call.effect)
    for name in ("args", "before", "after", "diff", "inverse"):
        if data.get(name) is not None:
            setattr(call, name, data[name])
    call.irreversible = bool(data.get("irreversible")) or call.irreversible
    call.intended = call.intended or event.kind == "call.intent"
    call.status = "running"
    node.waiting = ""


def _note(view: RunView, event: Event) -> None:
    for call in view.by_op.get(event.key, ())[-1:]:
        call.notes[str(event.data.get("key"))] = event.data.get("value")


def _result(view: RunView, event: Event) -> None:
    data = event.data
    if event.key not in view.calls:
        _call(view, event)  # reads have no intent: their result is all there is
    call = view.calls[event.key]
    call.status = data.get("status", "")
    call.outputs = data.get("outputs")
    call.error = data.get("error")
    call.changed = bool(data.get("changed"))
    call.irreversible = bool(data.get("irreversible")) or call.irreversible
    call.abandoned = bool(data.get("abandoned"))
    call.inverse = data.get("inverse") or call.inverse
    call.seq = event.seq
    call.ended = event.wall
    if call.is_inverse:
        node = node_of(view, step_of(event.key))
        node.status, node.ended, node.error = call.status, event.wall, call.error
        if call.status == "succeeded" and "!temporary[" in event.key:
            _returned(view, data.get("undoes"), True)


def _returned(view: RunView, seq: object, back: bool) -> None:
    for call in view.calls.values():
        if call.seq == seq:
            call.returned = back


def _sleep_began(view: RunView, event: Event) -> None:
    _waits_for(view, event.key, "time")


def _slept(view: RunView, event: Event) -> None:
    _waits_for(view, event.key, "")


def _waits_for(view: RunView, key: str, what: str) -> None:
    """Only of a step that is known: pauses of the run's own (of its lanes) are nobody's."""
    node = view.steps.get(step_of(key))
    if node is not None:
        node.waiting = what


def _asked(view: RunView, event: Event) -> None:
    data = event.data
    view.questions[event.key] = QuestionView(
        key=event.key,
        kind=data.get("kind", ""),
        text=data.get("text", ""),
        options=data.get("options"),
        asked=event.wall,
    )
    _waits_for(view, event.key, "a person")


def _answered(view: RunView, event: Event) -> None:
    question = view.questions.get(event.key)
    if question is None:
        question = view.questions[event.key] = QuestionView(event.key, "", "", asked=event.wall)
    question.status = event.data.get("status", "succeeded")
    question.answer = event.data.get("outputs")
    question.answered = event.wall
    _waits_for(view, event.key, "")
    about, given = question.options, question.answer
    if question.kind == "in_doubt" and isinstance(about, Mapping) and isinstance(given, Mapping):
        doubtful = view.calls.get(str(about.get("call")))
        if doubtful is not None and given.get("choice") == "done":  # somebody has looked: it happened
            doubtful.status, doubtful.changed = "succeeded", True


def _given(view: RunView, event: Event) -> None:
    question = view.questions.get(event.key)
    if question is not None:
        question.given.append(event.data)
        count_answers(view, question)


def count_answers(view: RunView, question: QuestionView, *mailed: Mapping[str, Any]) -> None:
    """How far the answers to a question are, those that no process has read yet among them."""
    from runbook.interpreter.effects import Question
    from runbook.runner import people

    if question.kind != "approve":
        return
    options = question.options if isinstance(question.options, Mapping) else {}
    asked = Question(question.key, step_of(question.key), "approve", question.text, options)
    by_name = {str(wire.get("by")): people.Answer.from_wire(wire) for wire in (*mailed, *question.given)}
    question.progress = people.progress(asked, list(by_name.values()), str(view.initiator))


def _locked(view: RunView, event: Event) -> None:
    tokens = event.data.get("tokens") or {}
    for name in event.data.get("names") or ():
        view.locks[name] = tokens.get(name) if isinstance(tokens, Mapping) else None


def _unlocked(view: RunView, event: Event) -> None:
    for name in event.data.get("names") or ():
        view.locks.pop(name, None)


def _secrets(view: RunView, event: Event) -> None:
    view.secrets.update({str(name): bool(there) for name, there in event.data.items() if not name.startswith("@")})


def _stop(view: RunView, event: Event) -> None:
    view.stops.append((event.key, event.data.get("kind", ""), event.data.get("why", "")))


def _warning(view: RunView, event: Event) -> None:
    message = str(event.data.get("message", ""))
    view.warnings.append(WarningView(event.key, message, event.wall))
    if event.key in view.steps:  # what was said of a step before it began stands with the run's warnings
        view.steps[event.key].warnings.append(message)


def _milestone(view: RunView, event: Event) -> None:
    wall = event.data.get("wall") or event.wall
    name = event.data.get("name") or event.key
    before = view.milestones.get(name)
    if before is None or before.taken_back:
        view.milestones[name] = MilestoneView(name, event.data.get("step", ""), wall)


def _taken_back(view: RunView, event: Event) -> None:
    name = event.data.get("name") or event.key
    if name in view.milestones:
        view.milestones[name].taken_back = True


def _undone(view: RunView, event: Event) -> None:
    ok = bool(event.data.get("ok", True))
    error = str(event.data.get("error") or "")
    for call in _of_change(view, event.key):
        call.undone, call.undone_at, call.undo_error = ok, event.wall, error
    _taken(view, event, error, ok=ok)
    if event.key in view.steps and ok:
        view.steps[event.key].undone = True
    if ok and "!temporary[" in event.key:  # the giving back was taken back, so it is there again
        _returned(view, int(event.key.rpartition("[")[2].rstrip("]")), False)


def _of_change(view: RunView, path: str) -> list[CallView]:
    """The calls of one change: its attempts; where undo steps of a block stand for them, all inside that stand."""
    if path in view.by_op:
        return [call for call in view.by_op[path] if not call.is_inverse]
    return [c for c in view.calls.values() if stands_for(path, c.op) and not c.is_inverse and not c.undone]


def _taken(view: RunView, event: Event, error: str, *, ok: bool) -> None:
    """Where in the tree it was played, and what an undo stopped at."""
    phase = str(event.data.get("phase") or "")
    node = view.steps.get(f"{phase}[{event.data.get('seq')}]")
    if node is not None:
        node.status, node.ended = "succeeded" if ok else "failed", event.wall
        node.error = None if ok else {"message": error}
        node.duration = max(0.0, event.wall - node.started) if node.started is not None else None
    for made in view.rounds:
        if made.what == "undo" and phase == f"@undo[{made.number}]" and not ok:
            made.stuck, made.no_inverse = event.key, event.data.get("why") == "no_inverse"


def _lane_left(view: RunView, event: Event) -> None:
    view.lane_left.append({"key": event.key, **event.data})


def _waits(view: RunView, event: Event) -> None:
    asked = event.data.get("questions") or ()
    code = 6 if any(question.get("kind") == "in_doubt" for question in asked) else 5
    later = view.open_round
    if later is not None:  # the run itself has ended, as it did
        later.status, later.exit = "waiting", code
        return
    view.status = view.root.status = "waiting"
    view.exit = code


def _round_begun(view: RunView, event: Event) -> None:
    who, why = str(event.data.get("initiator") or ""), str(event.data.get("why") or "")
    for path in event.data.get("accepted") or ():
        view.accepted.setdefault(path, AcceptedView(path, who, event.wall, why))
    view.rounds.append(RoundView(event.kind.partition(".")[0], event.key, event.wall))


def _round_ended(view: RunView, event: Event) -> None:
    for made in view.rounds:
        if made.number == event.key:
            made.ended, made.status = event.wall, event.data.get("status", "")
            made.exit, made.error = event.data.get("exit"), event.data.get("error")
    _settle(view)


def _settle(view: RunView) -> None:
    """Rounds, and phases that were cut, have no end record of their own: what they hold says what became of them."""
    for _, node in reversed(list(view.walk())):
        if node.status == "running" and (node.phase or node.kind == "round"):
            bad = [child.status for child in node.children if child.status not in ("succeeded", "skipped")]
            node.status = bad[0] if bad else "succeeded"
            node.ended = max((child.ended or 0.0 for child in node.children), default=0.0) or view.last
            node.duration = max(0.0, node.ended - node.started) if node.started is not None else None


def _item_name(item: Any) -> str:
    """What an iteration is called: its item, or the name that the item gives itself."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("name", "id") if isinstance(item.get(key), str)), item)
    return value(item, 40)


FOLDS: Mapping[str, Callable[[RunView, Event], None]] = {
    "run.begun": _begun,
    "run.ended": _ended,
    "resumed": _resumed,
    "step.started": _step_started,
    "step.ended": _step_ended,
    "call.prepared": _call,
    "call.intent": _call,
    "call.note": _note,
    "call.result": _result,
    "sleep.began": _sleep_began,
    "slept": _slept,
    "asked": _asked,
    "answer.given": _given,
    "answered": _answered,
    "locked": _locked,
    "unlocked": _unlocked,
    "secrets": _secrets,
    "stop": _stop,
    "warning": _warning,
    "milestone": _milestone,
    "milestone.taken_back": _taken_back,
    "undone": _undone,
    "lane.left": _lane_left,
    "waiting": _waits,
    "undo.begun": _round_begun,
    "undo.ended": _round_ended,
    "finish.begun": _round_begun,
    "finish.ended": _round_ended,
}
