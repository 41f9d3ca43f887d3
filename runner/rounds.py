"""What was played after a run's own end, as its journal has it: undo and finish rounds, and how far undoing came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook.runner.journal import Event

if TYPE_CHECKING:
    from runbook.interpreter.engine import Engine, Outcome

BEGUN = ("undo.begun", "finish.begun")
ENDED = ("undo.ended", "finish.ended")


class Rounds:
    """A fold over a journal's events. A round is what it is (`undo`, `finish`) and its number, as text."""

    def __init__(self) -> None:
        self.played: list[tuple[str, str]] = []
        self.accepted: dict[str, tuple[str, ...]] = {}  # undo round -> changes that are left as they are from there on
        self.gone: set[str] = set()  # paths of changes that were taken back
        self.errors: dict[str, str] = {}  # path of a change -> why it could not be taken back the last time
        self._ended: set[str] = set()

    def note(self, event: Event) -> None:
        """One more event, in order."""
        if event.kind in BEGUN:
            self.begin(event.kind.partition(".")[0], event.key, tuple(event.data.get("accepted") or ()))
        elif event.kind in ENDED:
            self._ended.add(event.key)
        elif event.kind == "undone" and event.data.get("ok"):
            self.gone.add(event.key)
            self.errors.pop(event.key, None)
        elif event.kind == "undone":
            self.errors[event.key] = str(event.data.get("error") or "it failed")

    def begin(self, what: str, number: str, accepted: tuple[str, ...] = ()) -> None:
        """A new round."""
        self.played.append((what, number))
        self.accepted[number] = accepted

    async def play(self, engine: Engine, what: str, number: str) -> Outcome:
        """Let the engine play a round, or replay it."""
        if what == "undo":
            return await engine.undo(int(number), self.accepted[number])
        return await engine.finish(int(number))

    @property
    def open(self) -> tuple[str, str] | None:
        """The round that was begun and not ended."""
        return next((round_ for round_ in self.played if round_[1] not in self._ended), None)

    @property
    def next(self) -> str:
        """The number of a new round."""
        return str(len(self.played) + 1)
