"""A run as people see it: a fold over the journal's events. Screen, `runbook show` and report are made from it.

Nothing here decides anything, and nothing heavy is imported: `runbook runs` folds many journals. Folding a prefix and
then the rest gives the same view as folding everything at once, so a screen may follow a run that is still going on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from runbook.runner.run_tree import (
    CallView,
    MilestoneView,
    QuestionView,
    RoundView,
    StepView,
    WarningView,
    is_inverse,
    parent_of,
    step_of,
)
from runbook.runner.wording import value


class Event(Protocol):
    """What a fold needs of a journal's event (runner.journal.Event)."""

    @property
    def seq(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def wall(self) -> float: ...
    @property
    def digest(self) -> str: ...


class RunView:
    """Everything known of one run after the events folded so far."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.file = ""
        self.inputs: Mapping[str, Any] = {}
        self.initiator: Any = ""
        self.parent: Any = None
        self.trigger: Any = None
        self.options: Mapping[str, Any] = {}
        self.version = ""
        self.simulated = False
        self.snapshot = ""
        self.started: float | None = None
        self.last: float = 0.0  # wall time of the newest event
        self.ended: float | None = None
        self.status = "pending"
        self.exit: int | None = None
        self.error: Mapping[str, Any] | None = None
        self.outputs: Any = None
        self.objectives: list[Mapping[str, Any]] = []
        self.unfinished: list[Any] = []
        self.head = ""
        self.seq = 0
        self.digest = ""
        self.root = StepView(key="", id="", kind="run", status="pending")
        self.steps: dict[str, StepView] = {"": self.root}
        self.calls: dict[str, CallView] = {}
        self._by_op: dict[str, list[CallView]] = {}
        self.milestones: dict[str, MilestoneView] = {}
        self.warnings: list[WarningView] = []
        self.questions: dict[str, QuestionView] = {}
        self.locks: dict[str, Any] = {}
        self.secrets: dict[str, bool] = {}
        self.stops: list[tuple[str, str, str]] = []  # box, kind, why
        self.resumed: list[Mapping[str, Any]] = []
        self.rounds: list[RoundView] = []
        self.lane_left: list[Mapping[str, Any]] = []
        self._folds: dict[str, Callable[[Event], None]] = {
            "run.begun": self._begun,
            "run.ended": self._ended,
            "resumed": self._resumed,
            "step.started": self._step_started,
            "step.ended": self._step_ended,
            "call.prepared": self._call,
            "call.intent": self._call,
            "call.note": self._note,
            "call.result": self._result,
            "sleep.began": self._sleep_began,
            "slept": self._slept,
            "asked": self._asked,
            "answered": self._answered,
            "locked": self._locked,
            "unlocked": self._unlocked,
            "secrets": self._secrets,
            "stop": self._stop,
            "warning": self._warning,
            "milestone": self._milestone,
            "milestone.taken_back": self._taken_back,
            "undone": self._undone,
            "lane.left": self._lane_left,
            "waiting": self._waits,
            "undo.begun": self._round_begun,
            "undo.ended": self._round_ended,
            "finish.begun": self._round_begun,
            "finish.ended": self._round_ended,
        }

    def add(self, event: Event) -> None:
        """Fold one more event. Kinds that this version does not know are counted and skipped.

        Number 0 is a passing event (a log line, progress): it is not on disk, so a view keeps nothing of it.
        """
        if event.seq == 0:
            return
        self.seq = event.seq
        self.digest = event.digest
        self.last = max(self.last, event.wall)
        handler = self._folds.get(event.kind)
        if handler is not None:
            handler(event)

    # -- what people ask of it

    def walk(self) -> Iterator[tuple[int, StepView]]:
        """All nodes below the root with their depth (0 = top), in the order in which they began."""
        for child in self.root.children:
            yield from child.walk(0)

    def leaves(self) -> Iterator[StepView]:
        """The steps that do something themselves: actions, and whatever else has no children."""
        return (step for _, step in self.walk() if not step.children and not step.phase)

    def open_questions(self) -> list[QuestionView]:
        """What waits for a person now."""
        return [question for question in self.questions.values() if not question.status]

    def changes(self) -> list[CallView]:
        """Calls that changed something outside, oldest first; inverses are not among them."""
        return [c for c in self.calls.values() if not c.is_inverse and c.changed and c.effect in ("change", "opaque")]

    def left(self) -> list[CallView]:
        """Changes that still stand: made, or perhaps made, and not taken back."""
        return [c for c in self.calls.values() if not c.is_inverse and c.effective and not c.undone]

    def in_doubt(self) -> list[CallView]:
        """Calls of which nobody knows whether they happened."""
        return [c for c in self.calls.values() if c.status == "in_doubt"]

    def culprit(self) -> StepView | None:
        """The step to blame for the end: the innermost of the first that failed and was not tolerated."""
        found: StepView | None = None
        node = self.root
        while bad := list(_blamed(node)):
            node = found = min(bad, key=lambda step: (step.ended is None, step.ended or 0.0))
        return found

    @property
    def last_round(self) -> RoundView | None:
        """The undo or clean-up that came after the run's own end, the newest."""
        return self.rounds[-1] if self.rounds else None

    def elapsed(self, now: float | None = None) -> float:
        """Seconds from the start to the end, or to `now` (Unix time), or to the newest event."""
        if self.started is None:
            return 0.0
        until = self.ended if self.ended is not None else now if now is not None else self.last
        return max(0.0, until - self.started)

    # -- folds, one per kind of event

    def _node(self, key: str) -> StepView:
        node = self.steps.get(key)
        if node is None:
            above = parent_of(key)
            tail = key[len(above) :].lstrip("/!") if above is not None else key
            node = self.steps[key] = StepView(key=key, id=tail.strip("[]") if tail.startswith("[") else tail)
            self._node(above or "").children.append(node)
        return node

    def _begun(self, event: Event) -> None:
        data = event.data
        self.id = data.get("run", "")
        self.name = data.get("name", "")
        self.file = data.get("file", "")
        self.inputs = data.get("inputs") or {}
        self.initiator = data.get("initiator", "")
        self.parent = data.get("parent")
        self.trigger = data.get("trigger")
        self.options = data.get("options") or {}
        self.version = data.get("version", "")
        self.simulated = bool(data.get("simulated"))
        self.snapshot = data.get("snapshot", "")
        self.started = self.root.started = event.wall
        self.status = self.root.status = "running"

    def _resumed(self, event: Event) -> None:
        self.resumed.append({**event.data, "wall": event.wall})
        if self.ended is None:
            self.status = self.root.status = "running"
            self.exit = None

    def _ended(self, event: Event) -> None:
        data = event.data
        self.ended = self.root.ended = event.wall
        self.status = self.root.status = data.get("status", "")
        self.exit = data.get("exit")
        self.error = self.root.error = data.get("error")
        self.outputs = data.get("outputs")
        self.objectives = list(data.get("objectives") or ())
        self.unfinished = list(data.get("unfinished") or ())
        self.head = event.digest

    def _step_started(self, event: Event) -> None:
        data = event.data
        if data.get("by") or data.get("stop"):
            return  # forbidden: it never began; its end record says why
        node = self._node(event.key)
        node.id = data.get("id") or node.id
        if data.get("kind") == "inverse":
            data = {**data, "name": f"take back {node.id}"}
        node.kind = data.get("kind", "")
        node.name = data.get("name") or ""
        node.action = data.get("action") or ""
        node.status = "running"
        node.background = bool(data.get("background"))
        node.milestone = data.get("milestone") or ""
        if node.started is None:
            node.started = event.wall

    def _step_ended(self, event: Event) -> None:
        data = event.data
        node = self._node(event.key)
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
        self._iterations(node)
        if node.started is None and data.get("started") is not None and node.status != "skipped":
            node.started = data["started"]

    def _iterations(self, node: StepView) -> None:
        """Iterations have no end record of their own: their foreach's results say what became of them."""
        results = node.outputs.get("results") if node.kind == "foreach" and isinstance(node.outputs, Mapping) else None
        for result in results if isinstance(results, list) else ():
            made = self.steps.get(f"{node.key}[{result.get('index')}]") if isinstance(result, Mapping) else None
            if made is not None:
                made.status, made.error = result.get("status", ""), result.get("error")
                made.name = value(result.get("item"), 40)
                made.ended = max((child.ended or 0.0 for child in made.children), default=node.ended or 0.0)
                made.duration = max(0.0, made.ended - made.started) if made.started is not None else None

    def _call(self, event: Event) -> None:
        data = event.data
        call = self.calls.get(event.key)
        if call is None:
            step = step_of(event.key)
            call = CallView(key=event.key, op=data.get("op") or data.get("call-op") or step, started=event.wall)
            call.is_inverse = bool(data.get("undoes")) or is_inverse(step)
            self.calls[event.key] = call
            self._by_op.setdefault(call.op, []).append(call)
            node = self._node(step)
            node.calls.append(call)
            if call.is_inverse and node.started is None:
                node.kind, node.status, node.started = "inverse", "running", event.wall
            node.attempts = len(node.calls)
        node = self._node(step_of(event.key))
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

    def _note(self, event: Event) -> None:
        for call in self._by_op.get(event.key, ())[-1:]:
            call.notes[str(event.data.get("key"))] = event.data.get("value")

    def _result(self, event: Event) -> None:
        data = event.data
        if event.key not in self.calls:
            self._call(event)  # reads have no intent: their result is all there is
        call = self.calls[event.key]
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
            node = self._node(step_of(event.key))
            node.status, node.ended, node.error = call.status, event.wall, call.error

    def _sleep_began(self, event: Event) -> None:
        self._waits_for(event.key, "time")

    def _slept(self, event: Event) -> None:
        self._waits_for(event.key, "")

    def _waits_for(self, key: str, what: str) -> None:
        """Only of a step that is known: pauses of the run's own (of its lanes) are nobody's."""
        node = self.steps.get(step_of(key))
        if node is not None:
            node.waiting = what

    def _asked(self, event: Event) -> None:
        data = event.data
        self.questions[event.key] = QuestionView(
            key=event.key,
            kind=data.get("kind", ""),
            text=data.get("text", ""),
            options=data.get("options"),
            asked=event.wall,
        )
        self._waits_for(event.key, "a person")

    def _answered(self, event: Event) -> None:
        question = self.questions.get(event.key)
        if question is None:
            question = self.questions[event.key] = QuestionView(event.key, "", "", asked=event.wall)
        question.status = event.data.get("status", "succeeded")
        question.answer = event.data.get("outputs")
        question.answered = event.wall
        self._waits_for(event.key, "")

    def _locked(self, event: Event) -> None:
        tokens = event.data.get("tokens") or {}
        for name in event.data.get("names") or ():
            self.locks[name] = tokens.get(name) if isinstance(tokens, Mapping) else None

    def _unlocked(self, event: Event) -> None:
        for name in event.data.get("names") or ():
            self.locks.pop(name, None)

    def _secrets(self, event: Event) -> None:
        self.secrets.update({str(name): bool(there) for name, there in event.data.items() if not name.startswith("@")})

    def _stop(self, event: Event) -> None:
        self.stops.append((event.key, event.data.get("kind", ""), event.data.get("why", "")))

    def _warning(self, event: Event) -> None:
        message = str(event.data.get("message", ""))
        self.warnings.append(WarningView(event.key, message, event.wall))
        self._node(event.key).warnings.append(message)

    def _milestone(self, event: Event) -> None:
        wall = event.data.get("wall") or event.wall
        name = event.data.get("name") or event.key
        before = self.milestones.get(name)
        if before is None or before.taken_back:
            self.milestones[name] = MilestoneView(name, event.data.get("step", ""), wall)

    def _taken_back(self, event: Event) -> None:
        name = event.data.get("name") or event.key
        if name in self.milestones:
            self.milestones[name].taken_back = True

    def _undone(self, event: Event) -> None:
        ok = bool(event.data.get("ok", True))
        of_op = [c for c in self._by_op.get(event.key, ()) if not c.is_inverse]
        for call in [c for c in of_op if c.seq == event.data.get("seq")] or of_op[-1:]:
            call.undone, call.undone_at = ok, event.wall
            error = event.data.get("error")
            call.undo_error = error.get("message", "") if isinstance(error, Mapping) else str(error or "")
        if event.key in self.steps and ok:
            self.steps[event.key].undone = True

    def _lane_left(self, event: Event) -> None:
        self.lane_left.append({"key": event.key, **event.data})

    def _waits(self, event: Event) -> None:
        asked = event.data.get("questions") or ()
        self.status = self.root.status = "waiting"
        self.exit = 6 if any(question.get("kind") == "in_doubt" for question in asked) else 5

    def _round_begun(self, event: Event) -> None:
        self.rounds.append(RoundView(event.kind.partition(".")[0], event.key, event.wall))

    def _round_ended(self, event: Event) -> None:
        for made in self.rounds:
            if made.number == event.key:
                made.ended, made.status = event.wall, event.data.get("status", "")
                made.exit, made.error = event.data.get("exit"), event.data.get("error")


def _blamed(node: StepView) -> Iterator[StepView]:
    """What failed directly below a node. Iterations have no status of their own: they are looked through."""
    for step in node.children:
        if step.phase or step.tolerated or step.key.startswith("@"):
            continue
        if step.status in _BAD:
            yield step
        elif step.status == "pending":
            yield from _blamed(step)


_BAD = frozenset({"failed", "timed_out", "cancelled", "in_doubt", "declined"})


def fold(events: Iterable[Event], view: RunView | None = None) -> RunView:
    """The view after `events`, starting from `view` (which is changed) or from nothing."""
    view = RunView() if view is None else view
    for event in events:
        view.add(event)
    return view


def of_folder(folder: Path) -> RunView:
    """The view of the run whose folder this is; its journal is opened for reading only.

    Raises: RunbookError when the journal cannot be read.
    """
    from runbook.runner.journal import Journal

    journal = Journal.open(folder / "journal.db", readonly=True)
    try:
        return fold(journal.events())
    finally:
        journal.close()
