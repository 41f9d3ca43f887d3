"""Screens that follow a run line by line: plain text for logs and pipes, JSON lines for machines."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TextIO

from runbook.cli.screen import changed_lines, said, title
from runbook.cli.terminal import STATUS_STYLE, Terminal, silence
from runbook.runner.journal import Event
from runbook.runner.run_tree import QuestionView, StepView, step_of
from runbook.runner.view import RunView
from runbook.runner.wording import clock, one_line, span, status_word, together, without_step

STOPS = {
    "@run": ": the work ends, its clean-up runs (a second Ctrl-C stops that too)",
    "@hard": ": the clean-up is cut, what is left stays open",
}


class Screen(Protocol):
    """What follows a run: gets every event right after its commit. `view` is the fold so far."""

    view: RunView

    def __call__(self, event: Event) -> None: ...

    def __enter__(self) -> Screen: ...

    def __exit__(self, *ended: object) -> None: ...

    def quiet(self) -> AbstractContextManager[None]:
        """Nothing is drawn while this is open: a person types."""
        ...


def write(text: str, stream: TextIO | None = None) -> None:
    """Say something, at once. A reader that left (`| head`) does not stop a recovery: the run goes on in silence."""
    stream = stream or sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        if stream is not sys.stdout:
            raise
        silence()


class Lines:
    """One line when a step ends, a retry fails, somebody is asked. Logs of actions only when `verbose`."""

    def __init__(self, terminal: Terminal, *, verbose: bool = False, stream: TextIO | None = None) -> None:
        self.view = RunView()
        self._terminal = terminal
        self._verbose = verbose
        self._stream = stream
        self._held: list[str] | None = None
        self._told: dict[str, str] = {}
        self._foreseen: set[str] = set()  # what preflight warned of, all at once
        self._lock = threading.RLock()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What happens meanwhile is said afterwards: the run itself never waits for somebody who types."""
        with self._lock:
            self._held = []
        try:
            yield
        finally:
            with self._lock:
                held, self._held = self._held or [], None
                self._say(held)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.view.add(event)
            lines = list(self._lines(event))
            if self._held is not None:
                self._held += lines
            else:
                self._say(lines)

    def _say(self, lines: list[str]) -> None:
        if lines:
            write("\n".join([*lines, ""]), self._stream)

    def _lines(self, event: Event) -> Iterator[str]:
        paint, data = self._terminal.paint, event.data
        step = step_of(event.key)
        stamp = paint(f"{clock(max(0.0, event.wall - (self.view.started or event.wall))):>6} ", "dim")
        match event.kind:
            case "run.begun":
                yield f"run {self.view.id}" + (paint("  SIMULATED", "yellow") if self.view.simulated else "")
            case "step.ended" if data.get("status") != "skipped" or self._verbose:
                first, *more = self._ended(self.view.steps[event.key])
                yield stamp + first
                yield from ("            " + line for line in more)
            case "slept" if event.key.endswith("+"):
                yield from (f"{stamp}{paint('·', 'dim')} {step}  {line}" for line in self._retried(event.key[:-1]))
            case "asked":
                yield f"{stamp}{paint('☐', 'cyan')} {step}  asks: {_said(data, 'text')}"
            case "answered" | "answer.given":
                yield from (f"{stamp}{paint('☐', 'cyan')} {step}  {line}" for line in self._answered(event))
            case "preflight" | "warning":
                yield from (stamp + paint(f"! {one_line(line)}", "yellow") for line in self._warned(event))
            case "milestone":
                yield f"{stamp}{paint('◆', 'green')} milestone {data.get('name', event.key)}"
            case "stop" if event.key.startswith("@") and "@background" not in event.key:
                then = STOPS.get(event.key.partition("~")[0], "")
                yield f"{stamp}{paint('■', 'yellow')} {_said(data, 'why') or 'stopped'}{then}"
            case "undo.begun" | "undone":
                yield from (stamp + line for line in self._undoing(event))
            case "resumed":
                yield f"{stamp}resumed"
            case "log" if self.view.is_own_word(event.key):
                if self._told.get(event.key) == data.get("text"):
                    return
                self._told[event.key] = str(data.get("text"))
                where = "" if event.key.startswith("@") else f"{step}  "
                yield f"{stamp}{paint('·', 'cyan')} {where}{_said(data, 'text')}"
            case "log" if self._verbose:
                yield stamp + paint(f"{step} | {_said(data, 'text')}", "dim")

    def _answered(self, event: Event) -> Iterator[str]:
        """What was answered, and how far that is. Nothing of a question that could not be asked."""
        question = self.view.questions[event.key]
        if event.kind == "answer.given":
            yield f"{_said(event.data, 'choice')} by {_said(event.data, 'by')}: {one_line(question.progress)}"
        elif event.data.get("status") and question.kind:
            yield settled(question)

    def _warned(self, event: Event) -> list[str]:
        """A warning; those of preflight all at once, each cause in one line."""
        if event.kind == "preflight":
            lacks = [str(lack) for lack in event.data.get("warnings") or ()]
            self._foreseen = set(lacks)
            return together(lacks)
        self._told[event.key] = _said(event.data, "message")
        line = f"{event.key}: {event.data.get('message') or ''}".removeprefix(": ")
        return [] if line in self._foreseen else [line]

    def _undoing(self, event: Event) -> Iterator[str]:
        """What an undo was told to leave, or one change of it."""
        data, paint = event.data, self._terminal.paint
        if event.kind == "undo.begun":
            why = f": {_said(data, 'why')}" if data.get("why") else ""
            for path in data.get("accepted") or ():
                yield f"{paint('·', 'cyan')} {path} is left as it is, accepted by {_said(data, 'initiator')}{why}"
        elif data.get("ok", True):
            yield f"{paint('✓', 'green')} took back {event.key}"
        else:
            why = f": {_said(data, 'error')}" if data.get("error") else ""
            yield paint(f"✗ could not take back {event.key}{why}", "red")

    def _retried(self, call_key: str) -> Iterator[str]:
        """Why there is another attempt; a poll's "not yet" is said once."""
        call = self.view.calls.get(call_key)
        message = _said(call.error, "message") if call is not None and call.error else ""
        message = without_step(message, step_of(call_key))
        if message and self._told.get(step_of(call_key)) != message:
            self._told[step_of(call_key)] = message
            yield f"attempt {call_key.rpartition('#')[2]}: {message}; trying again"

    def _ended(self, step: StepView) -> Iterator[str]:
        """What became of a step: one line, then its differences or its failure."""
        terminal = self._terminal
        head = terminal.status(step.status, "") if step.status == "succeeded" else terminal.status(step.status) + " "
        said_by_key = step.phase not in ("", "temporary")
        name = terminal.paint(f"  {title(step)}", "dim") if step.name and not said_by_key else ""
        words = ", ".join(_words(step))
        yield f"{head}{step.key}{name}" + (terminal.paint(f"  {words}", "dim") if words else "")
        yield from (terminal.paint(line, "dim") for line in changed_lines(step))
        told = step.tolerated and self._told.get(step.key, "").endswith(said(step))  # a moment ago, as a warning
        if step.error and step.status not in ("succeeded", "skipped") and not step.children and not told:
            yield terminal.paint(said(step), STATUS_STYLE.get(step.status, "red"))


def _words(step: StepView) -> Iterator[str]:
    if step.status != "skipped" and step.duration is not None:
        yield span(step.duration)
    if step.attempts > 1 and not step.children:
        yield f"{step.attempts} attempts"
    if step.tolerated and step.status != "succeeded":
        yield "tolerated"
    if step.undone:
        yield "undone"
    if (
        step.status == "succeeded"
        and any(c.effect == "change" for c in step.calls)
        and not any(c.changed for c in step.calls)
    ):
        yield "already so"


def settled(question: QuestionView | None) -> str:
    """What was answered, by whom; '' while a question is open. One that nobody answered ended with its step."""
    if question is None or not question.status:
        return ""
    given = question.answer if isinstance(question.answer, Mapping) else {}
    who = given.get("by") or given.get("who")
    people = ", ".join(map(str, who)) if isinstance(who, list) else str(who or "")
    by = f" (by {one_line(people)})" if people else ""
    if question.status != "succeeded":
        return status_word(question.status) + by
    choice = one_line(str(given.get("choice") or ""))
    return ("approved" if question.kind == "approve" else f"answered{': ' if choice else ''}{choice}") + by


def _said(data: Mapping[str, Any], name: str) -> str:
    return one_line(str(data.get(name) or ""))


class JsonLines:
    """Every event as one JSON object a line, as the journal has it; passing ones (`log`, `progress`) have seq 0."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.view = RunView()
        self._stream = stream
        self._lock = threading.Lock()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.view.add(event)
            line = json.dumps(
                {
                    "seq": event.seq,
                    "kind": event.kind,
                    "key": event.key,
                    "at": event.at,
                    "wall": event.wall,
                    "data": dict(event.data),
                },
                ensure_ascii=False,
            )
            write(line + "\n", self._stream)
