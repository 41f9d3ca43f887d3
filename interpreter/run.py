"""What all parts of one run share: the boxes, the log of changes, the facts, and the way to run a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import Any

from runbook.interpreter.changes import Log, inside
from runbook.interpreter.effects import Box, Effects, Record
from runbook.interpreter.model import Step
from runbook.interpreter.outcome import Outcome
from runbook.interpreter.scope import RunInfo, Scope
from runbook.interpreter.unwind import Left


class Run(ABC):
    """The state of a run that is no step's own. `interactive`: a person is asked at each failure of an action.

    `work` is what a first cancel stops, `hard` what a second one stops, `lane` where notifications run.
    """

    def __init__(self, info: RunInfo, fx: Effects, *, interactive: bool = False) -> None:
        self.info = info
        self.fx = fx
        self.interactive = interactive
        self.work = Box("@run", None)
        self.hard = Box("@hard", None)
        self.lane = Box("@lane", self.hard)
        self.log = Log()
        self.finishing = False  # only what is left of the clean-up is played
        self.telling_only = False  # refused before anything was begun: of the handlers only what tells is played
        self.undo_all = False  # a person said so at a failure
        self.asserted: set[int] = set()  # numbers of records in which an assertion did not hold
        self.milestones: dict[str, tuple[str, bool]] = {}  # step key -> name, and whether it was only told
        self.left: list[Left] = []  # clean-up that a second cancel skipped or cut
        self.lanes: dict[str, Awaitable[Outcome]] = {}  # the last notification of each lane
        self.telling: list[tuple[str, Awaitable[Outcome]]] = []

    @abstractmethod
    async def execute(
        self, step: Step, scope: Scope, path: str, box: Box, *, gate: Box | None = None, alternative: bool = False
    ) -> Outcome:
        """Run one step to its outcome. `gate`: what may forbid that it starts, and nothing more.

        Never raises for what happens in the world. `alternative`: of a fallback, where a failure is only a note.
        """

    @abstractmethod
    async def sequence(self, steps: tuple[Step, ...], scope: Scope, path: str, box: Box) -> Outcome:
        """Run a handler's steps in order."""

    @abstractmethod
    async def carry_out(
        self, step: Step, scope: Scope, path: str, box: Box, begun: Record, args: Mapping[str, Any] | None = None
    ) -> Outcome:
        """What a step does once it may: locks, time box, body, unwinding."""

    @abstractmethod
    def ended(
        self, step: Step, scope: Scope, path: str, begun: Record, out: Outcome, *, alternative: bool = False
    ) -> None:
        """Show what became of a step, and note its milestone."""

    def box(self, key: str, parent: Box, due: float | None = None) -> Box:
        """A new box, stopped at once if it is on record as stopped."""
        made = Box(key, parent, due)
        self.fx.opened(made)
        return made

    def unwinding(self, box: Box) -> bool:
        """Whether what runs in `box` is clean-up: it hangs from `hard`, not from the work."""
        top = box
        while top.parent is not None:
            top = top.parent
        return top is not self.work

    def met(self, name: str, scope: Scope, path: str, out: Outcome, *, told: bool = False) -> None:
        """A milestone's step succeeded. Several may meet it: the earliest that stands counts, whoever asks.

        `told`: by a notification or an answer, which no undo takes back.
        """
        full = scope.book.prefix + name
        self.milestones[path] = full, told
        self.fx.emit("milestone", path, {"name": full, "step": path, "wall": out.wall})

    def taken_back(self, outer: str) -> None:
        """An undo of `outer` took back what the milestones of its steps stood for."""
        for path, (name, told) in self.milestones.items():
            if not told and (path == outer or inside(path, outer)):
                self.fx.emit("milestone.taken_back", path, {"name": name, "step": path})

    def warn(self, path: str, message: str) -> None:
        """Something that people should know and that stops nothing."""
        self.fx.emit("warning", path, {"message": message})


def join(path: str, step: str) -> str:
    """The key of a child."""
    return path + step if not path or path.endswith("/") else f"{path}/{step}"
