"""The protocol between the interpreter and the world, and what crosses it.

Everything that the engine cannot know by itself it asks through `Effects`; every answer is a `Record`. A runner
journals records, and a resumed run answers from the journal by key: **what is recorded wins over everything live**. So
replay is a lookup, and the order in which tasks happen to run decides nothing. A stop is *seen* in two places only: a
step's start record and a leaf's record (call, sleep, ask, lock). Time enters by the same records.

Keys. A step's path is its ids joined by `/` (`deploy/restart`), an iteration adds `[index]` (`each[2]/restart`), what a
sub-playbook does stands under its step (`deploy/first`; its own phases `deploy/!finally`), an attempt adds `#n`
(`deploy/restart#1`; the pause after it `deploy/restart#1+`), an operator's repeat `~n`, a phase of unwinding
`!undo | !on_failure | !temporary | !finally` (`deploy!finally/tell`; the root's start with `!`), an inverse the number
of the record that it undoes (`deploy!undo[17]`), the look at a block's box after clean-up inside it `!end`. The run
itself starts under ''.

Boxes: `@run` the run's work, `@hard` what clean-up hangs from (a second cancel stops it), `@lane` notifications;
`p@gate` and `b@background` are an inner part of a gathering step, `a@locks` is an action's wait for its locks; a round
after the run has its own (`@undo[1]`, `@undo[1]@hard`, `@finish[1]`); every other box is named by the key of its step,
attempt or phase.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import field
from typing import Any, Literal, Protocol, TypeVar

from runbook.interpreter.frozen import frozen

T = TypeVar("T")
StopKind = Literal["timed_out", "cancelled"]
Status = Literal[
    "pending", "running", "succeeded", "failed", "timed_out", "skipped", "cancelled", "in_doubt", "declined"
]


class Box:
    """A right to work, which ends: by its time, by a cancel, by a sibling's failure, or with its parent.

    Data, not a timer: `due` is in running seconds of the run (None = no end of its own), `stopped` is set once, by
    `Effects.stop` or on replay from the journal. Whoever makes a leaf's record asks `verdict(now)`.
    """

    __slots__ = ("due", "key", "parent", "stopped")

    def __init__(self, key: str, parent: Box | None, due: float | None = None) -> None:
        self.key = key
        self.parent = parent
        self.due = due
        self.stopped: StopKind | None = None

    def verdict(self, at: float) -> tuple[StopKind, str] | None:
        """Why and by which box work is over at running time `at`; None while it may go on. The outermost decides."""
        outermost: tuple[StopKind, str] | None = None
        box: Box | None = self
        while box is not None:
            if box.stopped is not None:
                outermost = (box.stopped, box.key)
            elif box.due is not None and at >= box.due:
                outermost = ("timed_out", box.key)
            box = box.parent
        return outermost

    def deadline(self) -> float | None:
        """The earliest `due` on the way to the root, in running seconds."""
        earliest: float | None = None
        box: Box | None = self
        while box is not None:
            if box.due is not None and (earliest is None or box.due < earliest):
                earliest = box.due
            box = box.parent
        return earliest


@frozen
class Fault:
    """An error as a value: what `steps.<id>.error` shows, plus what decides about it."""

    message: str
    kind: str = "permanent"
    # permanent | temporary | timeout | cancelled | verdict (a check says no) | expression | refused | declined | lock |
    # in_doubt | abandoned | not_started (a call whose intent was never written) | no_inverse (an undo's) | bug
    temporary: bool = False
    attempt: int = 1
    hint: str | None = None
    retry_after: float | None = None  # seconds that the other side asked for


@frozen
class Call:
    """One attempt of one action.

    `key` is unique in the run; `op` is the key of the step without attempt: the stable id of the operation, the same
    over attempts and resume (the first attempt's `before` and inverse are kept under it). `args` is plain data in which
    secrets are seals (values.Sealed) and, in previews, values may be Unknown. `inverse`: this call takes back the call
    whose result has the sequence number `undoes`; its args come from the host and are revealed everywhere.
    """

    key: str
    op: str
    step: str  # path by step ids, for people
    action: str
    args: Mapping[str, Any]
    effect: str
    attempt: int = 1
    idempotent: bool = False
    again: bool = False  # its inverse is itself (restarts, cache flushes)
    lane: str = ""
    secret_at: tuple[str, ...] = ()
    base: str = ""  # the file whose folder relative paths are relative to
    inverse: bool = False
    undoes: int | None = None
    maybe: bool = False  # previews: whether it would run is not known
    spare: bool = False  # previews: and that hangs only on which alternative of a fallback is used
    notes: Mapping[str, Any] = field(default_factory=dict)


@frozen
class Question:
    """Something for a person. `kind`: approve, choose, checklist, in_doubt, failure (`--interactive`)."""

    key: str
    step: str
    kind: Literal["approve", "choose", "checklist", "in_doubt", "failure"]
    text: str
    options: Mapping[str, Any] = field(default_factory=dict)  # the action's args; else `choices`, a list
    maybe: bool = False


@frozen
class SecretRef:
    """A secret's rendered coordinates: kind env, file or k8s. `place`: where it is declared.

    `maybe` and `spare` (looks ahead): as those of a call, of the playbook that declares it.
    """

    name: str
    kind: Literal["env", "file", "k8s"]
    where: Any
    optional: bool = False
    place: str = ""
    maybe: bool = False
    spare: bool = False


@frozen
class Record:
    """What crosses from the world to the interpreter, and what the journal holds: canonical JSON data.

    `seq` orders all records of a run and decides what was first. `at` is running time in seconds (it stands still while
    the run is down, and while only people are waited for), `wall` Unix time. `by` names the box that stopped it, and
    then `status` is that stop's kind. `changed`: something may have changed; an opaque action: its intent was written.
    `inverse` is there from the intent on, also when the attempt failed or was cut. `sure` is False in previews: it may
    turn out otherwise.
    """

    seq: int
    at: float
    wall: float
    status: Status = "succeeded"
    outputs: Any = None
    error: Fault | None = None
    by: str | None = None
    changed: bool = False
    inverse: Call | None = None
    irreversible: bool = False  # a change that nothing takes back
    sure: bool = True


class Effects(Protocol):
    """Implemented by the local runner (journal, threads), by previews, by tests, by a distributed engine."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """A task on the loop that drives the engine; awaited (by any number, in their order) it gives its result."""
        ...

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        """A step or a phase begins (`status` running), or `by` forbids it.

        `about` (id, kind, name, action; background, milestone, undo: none) is for the journal only.
        """
        ...

    async def call(self, call: Call, box: Box) -> Record:
        """Run an action to its result.

        The intent of an effect is durable before it starts, its result before this returns.
        """
        ...

    async def ask(self, question: Question, box: Box) -> Record:
        """Wait for a person. `status` succeeded with the answer in `outputs`, declined, or stopped by a box."""
        ...

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        """Wait until a recorded moment. Jitter (0.8 to 1.2) comes from sha256 of run id and key."""
        ...

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        """Take locks, in sorted order, for the step `key`.

        `first`: at the run's start (key `@run`), where a held lock refuses; later ones are waited for. What the run
        holds, its steps still take turns at: a branch waits for the step of another branch that has it. The engine
        never asks for a name that an enclosing step holds.
        """
        ...

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        """Give back what the step `key` took. What the run took at its start stays its own until `@run` gives it."""
        ...

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        """`outputs`: name -> whether it is there. The values stay in the host."""
        ...

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        """The engine itself ends a box: recorded first, then `box.stopped` is set and leaves under it are cut."""
        ...

    def opened(self, box: Box) -> None:
        """A new box: one of this key that is on record as stopped is stopped before anything runs in it.

        Called again for a box that got its `due` later (`@run`, a sub-playbook's, `@lane` after the root's finally).
        """
        ...

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        """Tell the journal something that it need not answer. Idempotent by kind and key.

        `step.ended` and `warning` by step, `milestone` and `milestone.taken_back` by the step that met it (`name` says
        which; it is met while one of its steps stands), `undone` by operation (one that failed by its phase, too),
        `lane.left` by step.
        """
        ...
