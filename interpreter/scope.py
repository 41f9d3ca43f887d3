"""What expressions see at one place of a run: inputs, vars, secrets, the steps so far, loop variables."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from runbook.interpreter import expressions, times, unknown, values
from runbook.interpreter.effects import Record
from runbook.interpreter.frozen import frozen
from runbook.interpreter.model import Choose, Playbook, Seconds, Step, Template
from runbook.interpreter.outcome import Outcome, error_view, failure_view


@frozen
class RunInfo:
    """Facts of the run that never change. `started_at` is Unix time; `parent` the caller's run or playbook, if any."""

    id: str
    name: str
    initiator: str = ""
    started_at: float = 0.0
    parent: str | None = None
    trigger: Mapping[str, Any] | None = None


@frozen
class Book:
    """One playbook being played. `path`: '' for the root, `<step path>/` of a called one; `prefix`: its milestones'."""

    playbook: Playbook
    info: RunInfo
    path: str
    prefix: str
    ids: frozenset[str]
    facts: Mapping[str, Any]  # `run`, but for the time
    sure: bool = True  # False in a preview: who runs it, and when, is known when it is run

    @classmethod
    def of(cls, playbook: Playbook, info: RunInfo, path: str = "", prefix: str = "") -> Book:
        """Computed once: every expression needs it."""
        facts = {
            "id": info.id,
            "name": info.name,
            "started_at": times.Timestamp(info.started_at),
            "initiator": info.initiator,
            "parent": info.parent,
            "trigger": info.trigger,
        }
        return cls(playbook, info, path, prefix, ids_of(playbook), facts)

    def foreseen(self) -> Book:
        """The same in a preview."""
        open_ = {name: unknown.Unknown("the beginning of the run", likely=self.facts[name]) for name in _OF_THE_RUN}
        return replace(self, facts={**self.facts, **open_}, sure=False)


NO_FAILURE: Mapping[str, Any] = failure_view(None)
_OF_THE_RUN = ("id", "started_at", "initiator")


def ids_of(playbook: Playbook) -> frozenset[str]:
    """The ids of all steps of one file: each is in scope, `pending` until it runs."""
    found: set[str] = set()
    todo = [*playbook.steps, *playbook.on_failure.steps, *playbook.finally_]
    while todo:
        step = todo.pop()
        found.add(step.id)
        todo += children(step)
    return frozenset(found)


def children(step: Step) -> list[Step]:
    """The steps inside a step, handlers included, but not those of a sub-playbook."""
    inner = [*step.on_failure.steps, *step.finally_, *step.undo.steps, *getattr(step, "steps", ())]
    if isinstance(step, Choose):
        inner += [child for branch in step.branches for child in branch.steps]
    return inner


def all_of(step: Step) -> list[str]:
    """The ids of a step and of all steps inside it."""
    found, todo = [], [step]
    while todo:
        one = todo.pop()
        found.append(one.id)
        todo += children(one)
    return found


Background = tuple[str, Awaitable[Outcome]]  # the id of a background step, and its task


class Frame:
    """The steps of one lexical level (a playbook, one iteration): their views, and the tasks that somebody may join."""

    __slots__ = ("outer", "tasks", "telling", "views")

    def __init__(self, outer: Frame | None = None) -> None:
        self.outer = outer
        self.views: dict[str, dict[str, Any]] = {}
        self.tasks: dict[
            str, tuple[Background, ...]
        ] = {}  # id -> the background steps that it is in, the outermost first
        self.telling: dict[str, Awaitable[Outcome]] = {}  # notifications, told or not

    def task(self, step: str, beside: tuple[str, ...]) -> Awaitable[Outcome] | None:
        """The outermost background step that is, or holds, this step and that the asker is not in (`beside`).

        Never an inner one in its place: whether that has begun or ended by now is nothing that a replay would see.
        """
        frame: Frame | None = self
        while frame is not None:
            if step in frame.tasks:
                return next((task for owner, task in frame.tasks[step] if owner not in beside), None)
            frame = frame.outer
        return None

    def beside(self, outer: Step, task: Awaitable[Outcome]) -> None:
        """`outer` runs in the background from here on, with all that is in it."""
        for step in all_of(outer):
            self.tasks[step] = (*self.tasks.get(step, ()), (outer.id, task))

    def joined(self, outer: Step) -> None:
        """The background step `outer` ended, and its block has seen it."""
        for step in all_of(outer):
            left = tuple(one for one in self.tasks.pop(step, ()) if one[0] != outer.id)
            if left:
                self.tasks[step] = left

    def notification(self, step: str) -> Awaitable[Outcome] | None:
        """The notification of this id, once it was posted. Whether it is told by now is nothing to decide by."""
        frame: Frame | None = self
        while frame is not None:
            if step in frame.telling:
                return frame.telling[step]
            frame = frame.outer
        return None

    def view(self, step: str) -> dict[str, Any] | None:
        """The view of a step that began, here or further out."""
        frame: Frame | None = self
        while frame is not None:
            if step in frame.views:
                return frame.views[step]
            frame = frame.outer
        return None

    def as_now(self) -> Frame:
        """A copy that stays as it is: for what is told later about how things are now."""
        copy = Frame() if self.outer is None else self.outer.as_now()
        copy.views.update(self.views)
        copy.telling.update(self.telling)
        return copy

    def open(self, step: str, begun: Record) -> None:
        """The step runs from here on."""
        since = _foreseen(begun.sure, step, times.Timestamp(begun.wall))
        self.views[step] = {**PENDING, "status": "running", "started_at": since}

    def close(self, step: str, out: Outcome, begun: Record) -> None:
        """The step ended."""
        changes = {
            "status": unknown.Unknown(f"whether {step} runs") if out.perhaps else out.status,
            "undone": out.undone,
            "outputs": out.outputs,
            "error": error_view(out.error, out.attempts),
            "duration": _foreseen(out.sure, step, times.Duration(round(max(0.0, out.at - begun.at), 3))),
            "attempts": _foreseen(out.sure, step, out.attempts),
        }
        self.change(step, changes)

    def doubt(self, steps: Iterable[str]) -> dict[str, tuple[Any, Any]]:
        """In a preview: how these steps ended is open from here. Their views, before and now, for `settle`."""
        doubted = {}
        for step in steps:
            view = self.views.get(step)
            if view is None or isinstance(view["status"], unknown.Unknown):
                continue
            open_ = {name: unknown.Unknown(f"the run of {step}", likely=view[name]) for name in _OF_ITS_END}
            self.change(step, open_)
            doubted[step] = view, self.views[step]
        return doubted

    def settle(self, doubted: Mapping[str, tuple[Any, Any]]) -> None:
        """Take a doubt back: whoever gets here knows that they ended well."""
        for step, (before, now) in doubted.items():
            if self.views[step] is now:
                self.views[step] = before

    def change(self, step: str, changes: Mapping[str, Any]) -> None:
        """Views are replaced, never changed: a copy of the frame stays as it is."""
        self.views[step] = {**self.views.get(step, PENDING), **changes}


_OF_ITS_END = ("status", "undone", "error")


def _foreseen(sure: bool, step: str, value: Any) -> Any:
    """What a preview knows of a step that was not run: what is likely."""
    return value if sure else unknown.Unknown(f"the run of {step}", likely=value)


PENDING: Mapping[str, Any] = {
    "status": "pending",
    "undone": False,
    "outputs": {},
    "error": None,
    "started_at": None,
    "duration": None,
    "attempts": 0,
}


class Steps(Mapping[str, Any]):
    """`steps`: every id of the file exists."""

    __slots__ = ("_frame", "_ids")

    def __init__(self, frame: Frame, ids: frozenset[str]) -> None:
        self._frame = frame
        self._ids = ids

    def __getitem__(self, key: str) -> Any:
        frame: Frame | None = self._frame
        while frame is not None:
            if key in frame.views:
                return frame.views[key]
            frame = frame.outer
        if key in self._ids:
            return dict(PENDING)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._ids))

    def __len__(self) -> int:
        return len(self._ids)


@frozen
class Scope:
    """The names at one place, the locks held along the path, and whether in a preview this place is reached at all."""

    book: Book
    frame: Frame
    names: Mapping[str, Any] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    maybe: bool = False
    spare: bool = False  # what is open about that is only which alternative of a fallback is used
    beside: tuple[str, ...] = ()  # ids of the background steps that this place is in

    def at(self, moment: float, **more: Any) -> dict[str, Any]:
        """All names, for an expression evaluated at running time `moment`."""
        book, elapsed = self.book, times.Duration(round(moment, 3))
        return {
            "failure": NO_FAILURE,
            **self.names,
            "steps": Steps(self.frame, book.ids),
            "run": {**book.facts, "elapsed": elapsed if book.sure else unknown.Unknown("the run", likely=elapsed)},
            **more,
        }

    def naming(self, **names: Any) -> Scope:
        """The same place with more names."""
        return replace(self, names={**self.names, **names})

    def iteration(self, **names: Any) -> Scope:
        """A level of its own: what runs here is not seen from outside."""
        return replace(self, names={**self.names, **names}, frame=Frame(self.frame))

    def holding(self, locks: tuple[str, ...]) -> Scope:
        """The same place with more locks held."""
        return replace(self, held=(*self.held, *locks)) if locks else self

    def perhaps(self) -> Scope:
        """The same place, in a preview that does not know whether the run gets here."""
        return self if self.maybe and not self.spare else replace(self, maybe=True, spare=False)

    def instead(self) -> Scope:
        """The same place, in a preview that does not know whether this alternative is the one that is used."""
        return self if self.maybe else replace(self, maybe=True, spare=True)


def seconds(value: Seconds | None, names: Mapping[str, Any]) -> float | None:
    """A duration of the model in seconds. None: no bound, also where a preview cannot know. ExpressionError."""
    if not isinstance(value, Template):
        return value
    return as_seconds(expressions.render(value.data, names))


def as_seconds(value: Any) -> float | None:
    """What a template gave for a duration, in seconds. ExpressionError."""
    if value is None or isinstance(value, unknown.Unknown):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise expressions.ExpressionError(f"{values.kind_of(value)} is not a duration")
    try:
        length = float(times.parse_duration(value)) if isinstance(value, str) else float(value)
    except ValueError as error:
        raise expressions.ExpressionError(str(error)) from None
    if not 0 <= length < float("inf"):
        raise expressions.ExpressionError(f"{value} is not a duration")
    return length
