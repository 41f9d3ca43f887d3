"""Playbooks as an author writes them, run for real (threads, files, a journal): what tests of the language look at.

The world is a folder (`tests.runner_toys`). `done` is what happened in it, in order: `x=1` (toy.set), a name
(toy.note), `tell x`, `restart x`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.interpreter.effects import Question
from runbook.interpreter.errors import Exit, Place
from runbook.interpreter.inputs import coerce
from runbook.runner import session
from runbook.runner.journal import Event
from runbook.runner.people import Answer
from tests.runner_toys import Lab

__all__ = ["Exit", "Played", "Room", "approve", "decline"]

HEAD = "runbook: 1\nname: p\n"


@dataclass(frozen=True)
class Played:
    """One run to its end: what its journal says, and what happened in the world."""

    ended: session.Ended
    events: Sequence[Event]
    done: Sequence[str]

    @property
    def exit(self) -> Exit:
        return self.ended.exit

    @property
    def steps(self) -> dict[str, str]:
        """Path -> status, in the order in which they ended; without phases of unwinding."""
        return {
            event.key: event.data["status"]
            for event in self.events
            if event.kind == "step.ended" and event.data["kind"] != "phase"
        }

    @property
    def outputs(self) -> dict[str, Any]:
        """The playbook's own outputs."""
        return dict(self.of("run.ended", "")["outputs"])

    def step(self, path: str) -> Mapping[str, Any]:
        """What the journal says of a step's end."""
        return self.of("step.ended", path)

    def values(self, path: str) -> Any:
        """A step's outputs."""
        return self.step(path)["outputs"]

    def error(self, path: str = "") -> str:
        """A step's error message, or the run's."""
        return str((self.step(path) if path else self.of("run.ended", ""))["error"]["message"])

    def of(self, kind: str, key: str) -> Mapping[str, Any]:
        """The last event of that kind and key."""
        return next(event.data for event in reversed(self.events) if (event.kind, event.key) == (kind, key))

    def all(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    @property
    def warnings(self) -> dict[str, str]:
        return {event.key: event.data["message"] for event in self.all("warning")}

    @property
    def milestones(self) -> list[str]:
        """Those that stand at the end."""
        back = {event.key for event in self.all("milestone.taken_back")}
        return [event.data["name"] for event in self.all("milestone") if event.key not in back]


class Room(Lab):
    """A lab in which whole playbooks are played."""

    def played(
        self,
        text: str,
        *,
        files: Mapping[str, str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        ask: Callable[[Question], Answer | None] | None = None,
        cancels: Mapping[str, float] | None = None,
        **options: Any,
    ) -> Played:
        """Play `text` (its head may be left out). `cancels`: start record's or intent's key -> seconds after it."""
        everything = {"p.yaml": text if text.lstrip().startswith("runbook:") else HEAD + text}
        for name, body in (files or {}).items():
            everything[name] = body if body.startswith("runbook:") else HEAD + body
        loaded = self.load(everything.pop("p.yaml"), **everything)
        assert loaded.playbook is not None
        values, problems = coerce(loaded.playbook.inputs, inputs or {}, self.environ, Place("test"))
        assert not problems, problems
        before = len(self.log())
        ended = session.start(
            loaded,
            values,
            world=self.around,
            options=session.Options(**{"initiator": "ann", **options}),
            listeners=[self._cancelling(cancels or {})],
            ask=ask,
        )
        return self._seen(ended, before)

    def resumed(self, *, cancels: Mapping[str, float] | None = None, **options: Any) -> Played:
        """Go on with the last run."""
        before = len(self.log())
        ended = session.resume(
            "last",
            world=self.around,
            options=session.Options(**options),
            listeners=[self._cancelling(cancels or {})],
        )
        return self._seen(ended, before)

    def undone(self) -> Played:
        """`runbook undo`."""
        before = len(self.log())
        return self._seen(self.undo(), before)

    def answered(self, step: str, choice: str, by: str = "bob") -> None:
        session.answer("last", step, Answer(choice, by, time.time()), world=self.around)

    def _cancelling(self, cancels: Mapping[str, float]) -> Callable[[Event], None]:
        def listen(event: Event) -> None:
            if event.kind in ("step.started", "call.intent") and event.key in cancels:
                threading.Timer(cancels[event.key], self._cancel).start()

        return listen

    def _cancel(self) -> None:
        session.cancel("last", world=self.around)

    def _seen(self, ended: session.Ended, before: int) -> Played:
        lines = self.log()[before:]
        done = [line.removeprefix("done ") for line in lines if line.startswith(("done ", "tell ", "restart "))]
        return Played(ended, self.events(ended), done)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


def approve(question: Question) -> Answer:
    """Bob approves whatever he is asked."""
    return Answer("approve", "bob", time.time())


def decline(question: Question) -> Answer:
    """Bob declines whatever he is asked."""
    return Answer("decline", "bob", time.time(), "not today")
