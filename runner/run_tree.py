"""The parts of a run's view: steps, calls, questions, milestones, and how journal keys nest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class CallView:
    """One attempt of one action. `before`, `after`, `diff` are there for changes, as journaled with the intent."""

    key: str
    op: str
    action: str = ""
    effect: str = ""
    args: Any = None
    before: Any = None
    after: Any = None
    diff: Any = None
    inverse: Any = None
    status: str = "running"
    outputs: Any = None
    error: Mapping[str, Any] | None = None
    intended: bool = False  # its intent is on disk
    changed: bool = False
    irreversible: bool = False
    abandoned: bool = False
    undone: bool | None = None  # None: nobody tried; False: its inverse failed or was refused
    undo_error: str = ""
    undone_at: float | None = None  # Unix time
    returned: bool = False  # a temporary change that was given back at its place
    is_inverse: bool = False
    seq: int = 0  # of its result
    started: float = 0.0
    ended: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def effective(self) -> bool:
        """Whether it left, or may have left, something in the world: nothing has an effect before its intent."""
        if self.effect not in ("change", "opaque") or not self.intended or self.returned:
            return False
        return self.changed or self.status in ("in_doubt", "running")


@dataclass(slots=True)
class StepView:
    """A step, an iteration (`each[2]`) or a phase of unwinding (`deploy!undo`): a node of the tree."""

    key: str
    id: str
    kind: str = ""
    name: str = ""
    action: str = ""
    status: str = "pending"
    started: float | None = None  # Unix time
    ended: float | None = None
    duration: float | None = None  # running seconds
    attempts: int = 0
    error: Mapping[str, Any] | None = None
    outputs: Any = None
    tolerated: bool = False
    by: str | None = None
    chosen: Any = None
    background: bool = False
    alternative: bool = False  # of a fallback: the next one was tried after it
    undone: bool = False
    undo: str = ""  # `none`: nothing takes it back, which the playbook accepts
    milestone: str = ""
    others: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    calls: list[CallView] = field(default_factory=list)
    children: list[StepView] = field(default_factory=list)
    place: str = ""  # file:line:column, of a step that failed
    waiting: str = ""  # what it waits for: a person, a lock, a time

    @property
    def phase(self) -> str:
        """`undo`, `on_failure`, `temporary` or `finally` for a phase node, else ''."""
        tail = self.key.rpartition("/")[2]
        if tail.startswith("@"):  # a round after the end: `runbook undo`, or clean-up that was left
            return tail[1:].partition("[")[0] if tail.count("[") == 1 else ""
        return tail.rpartition("!")[2].partition("~")[0] if "!" in tail and not tail.endswith("]") else ""

    def changes(self) -> list[CallView]:
        """What the step changed itself: its attempts are one change, told by the last that changed anything."""
        return [call for call in self.calls if call.changed and not call.is_inverse][-1:]

    def walk(self, depth: int = 0) -> Iterator[tuple[int, StepView]]:
        """This node and all below it, in the order in which they began."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


@dataclass(slots=True)
class RoundView:
    """What was played after the run's own end: an `undo`, or a `finish` of clean-up that was left."""

    what: str
    number: str
    began: float
    ended: float | None = None
    status: str = "running"
    exit: int | None = None  # of one that has not ended: it waits for a person
    error: Mapping[str, Any] | None = None
    stuck: str = ""  # the change that an undo stopped at
    no_inverse: bool = False  # nothing takes that one back: trying again does not help


@dataclass(slots=True)
class AcceptedView:
    """A change that somebody saw to by hand, or leaves as it is: no undo touches it."""

    step: str
    by: str
    wall: float
    why: str = ""


@dataclass(slots=True)
class QuestionView:
    """Something that a person is, or was, asked."""

    key: str
    kind: str
    text: str
    options: Any = None
    asked: float = 0.0
    answered: float | None = None
    status: str = ""  # '' while it is open
    given: list[Mapping[str, Any]] = field(default_factory=list)  # answers that did not decide it alone
    mailed: str = ""  # an answer that decides it and that no process has read yet: `approve by root`
    progress: str = ""  # how far an approval by several people is: `1 of 2; still asked: bob`
    answer: Any = None


@dataclass(slots=True)
class WarningView:
    """Something that did not go well and stopped nothing."""

    key: str
    message: str
    wall: float


@dataclass(slots=True)
class MilestoneView:
    """When a milestone was met, by which step; `taken_back` when what met it was undone."""

    name: str
    step: str
    wall: float
    taken_back: bool = False


def parent_of(key: str) -> str | None:
    """The key of the node that holds `key`: `a/b[2]/c` -> `a/b[2]` -> `a/b` -> `a` -> '' -> None."""
    if not key:
        return None
    if key.startswith("@") and key.endswith("]") and key.count("[") == 1:
        return ""  # a round after the run's own end
    cut = max(key.rfind("/"), key.rfind("!"), key.rfind("["))
    return key[:cut].rstrip("/") if cut > 0 else ""


def stands_for(path: str, op: str) -> bool:
    """Whether a change at `path` is that of the operation, or of a block whose undo steps stand for it. What the
    block's own handlers changed is not meant."""
    return op == path or (op.startswith(path) and op[len(path)] in "/[")


def in_undo(op: str) -> bool:
    """Whether an operation is one of an author's undo steps, played by an undo: `deploy!undo[17]/down`."""
    return bool(_UNDO_STEPS.search(op))


_UNDO_STEPS = re.compile(r"(!undo(~\d+)?|@undo\[\d+\])\[\d+\]/")
_ATTEMPT = re.compile(r"(~\d+)?(#\w+)?[!?+]*$")


def step_of(key: str) -> str:
    """The step that a call, question, attempt or pause belongs to: without `~repeat`, `#attempt` and what follows."""
    return _ATTEMPT.sub("", key)


def is_inverse(key: str) -> bool:
    """Whether a key is that of an inverse: `deploy!undo[17]`, `deploy!temporary[17]`, `@undo[1][17]`."""
    tail = key.rpartition("/")[2]
    return ("!" in tail and tail.endswith("]")) or bool(re.match(r"@undo\[\d+\]\[", tail))
