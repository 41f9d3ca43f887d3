"""A run as people see it: a fold over the journal's events. Screen, `runbook show` and report are made from it.

Nothing here decides anything, and nothing heavy is imported: `runbook runs` folds many journals. Folding a prefix and
then the rest gives the same view as folding everything at once, so a screen may follow a run that is still going on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from runbook.runner.folds import FOLDS
from runbook.runner.run_tree import (
    AcceptedView,
    CallView,
    MilestoneView,
    QuestionView,
    RoundView,
    StepView,
    WarningView,
    in_undo,
    parent_of,
    stands_for,
    step_of,
)


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
        self.defaults: frozenset[str] = frozenset()  # the inputs that are what they are without a word
        self.inputs: Mapping[str, Any] = {}
        self.initiator: Any = ""
        self.parent: Any = None
        self.trigger: Any = None
        self.options: Mapping[str, Any] = {}
        self.version = ""
        self.simulated = False
        self.world = ""  # where its simulated world is, if that outlives the command
        self.snapshot = ""
        self.cwd = ""  # where it was started; its file is relative to it
        self.applied = False  # whether it applies a saved plan
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
        self.by_op: dict[str, list[CallView]] = {}
        self.milestones: dict[str, MilestoneView] = {}
        self.warnings: list[WarningView] = []
        self.questions: dict[str, QuestionView] = {}
        self.locks: dict[str, Any] = {}
        self.secrets: dict[str, bool] = {}
        self.cancelled = ""  # a cancel that no process has read yet: `cancelled by root`
        self.stops: list[tuple[str, str, str]] = []  # box, kind, why
        self.resumed: list[Mapping[str, Any]] = []
        self.rounds: list[RoundView] = []
        self.accepted: dict[str, AcceptedView] = {}  # path of a change -> who leaves it as it is
        self.lane_left: list[Mapping[str, Any]] = []

    def add(self, event: Event) -> None:
        """Fold one more event. Kinds that this version does not know are counted and skipped.

        Number 0 is a passing event (a log line, progress): it is not on disk, so a view keeps nothing of it.
        """
        if event.seq == 0:
            return
        self.seq = event.seq
        self.digest = event.digest
        self.last = max(self.last, event.wall)
        change = FOLDS.get(event.kind)
        if change is not None:
            change(self, event)

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
        """What changed something outside, oldest first: no inverses, and of attempts the last."""
        made = (c for c in self._forward() if c.changed and c.effect in ("change", "opaque"))
        return list({call.op: call for call in made}.values())

    def left(self) -> list[CallView]:
        """Changes that still stand: made, or perhaps made, and not taken back; of attempts the last."""
        standing = (c for c in self._forward() if c.effective and not c.undone)
        return list({call.op: call for call in standing}.values())

    def _forward(self) -> Iterator[CallView]:
        """All calls but those that take something back: inverses, and an author's undo steps."""
        return (call for call in self.calls.values() if not call.is_inverse and not in_undo(call.op))

    def accepted_of(self, op: str) -> AcceptedView | None:
        """Who leaves the change of this operation as it is: it, or the step around it whose undo steps stand for it."""
        return next((told for path, told in self.accepted.items() if stands_for(path, op)), None)

    def waived(self, call: CallView) -> bool:
        """Whether nothing takes a change back and its playbook says so: `undo: none`, also of a block around it."""
        key: str | None = step_of(call.key)
        while key:
            if key in self.steps and self.steps[key].undo == "none":
                return True
            key = parent_of(key)
        return False

    def undone(self) -> list[CallView]:
        """Changes that were taken back; of attempts the last."""
        return list({call.op: call for call in self.calls.values() if call.undone and not call.is_inverse}.values())

    def in_doubt(self) -> list[CallView]:
        """Calls of which nobody knows whether they happened."""
        return [c for c in self.calls.values() if c.status == "in_doubt"]

    def culprit(self, below: StepView | None = None) -> StepView | None:
        """The step to blame for the end: the innermost of the first that failed and was not tolerated.

        A fallback of which several ways failed is itself to blame, not the way that it tried first. `below`: the
        innermost in a step instead of in the run.
        """
        found: StepView | None = None
        node = self.root if below is None else below
        while bad := list(_blamed(node)):
            node = found = min(bad, key=lambda step: (step.ended is None, step.ended or 0.0))
            if ways_of(node):
                break
        return found

    @property
    def last_round(self) -> RoundView | None:
        """The undo or clean-up that came after the run's own end, the newest."""
        return self.rounds[-1] if self.rounds else None

    @property
    def open_round(self) -> RoundView | None:
        """The undo or clean-up that has begun and not ended."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].ended is None else None

    def is_own_word(self, key: str) -> bool:
        """Whether a log line is the run's own (it waits for a lock, an answer does not count), not an action's."""
        return "#" not in key or key in self.questions

    def elapsed(self, now: float | None = None) -> float:
        """Seconds from the start to the end, or to `now` (Unix time), or to the newest event."""
        if self.started is None:
            return 0.0
        until = self.ended if self.ended is not None else now if now is not None else self.last
        return max(0.0, until - self.started)


def ways_of(step: StepView) -> list[StepView]:
    """The ways of a fallback that failed where it tried several; nothing of any other step."""
    if step.kind != "fallback" or step.status != "failed":
        return []
    failed = [way for way in step.children if way.status in BAD and not way.phase]
    return failed if len(failed) > 1 else []


def _blamed(node: StepView) -> Iterator[StepView]:
    """What failed directly below a node, and nothing was tried instead of it. Iterations are looked through."""
    for step in node.children:
        if step.phase or step.tolerated or step.alternative or step.key.startswith("@"):
            continue
        if step.status in BAD:
            yield step
        elif step.status == "pending":
            yield from _blamed(step)


BAD = frozenset({"failed", "timed_out", "cancelled", "in_doubt", "declined"})


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
