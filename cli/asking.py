"""Questions on a terminal. One at a time, in whatever thread the run asks from; nobody there means no answer."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import click

from runbook.cli.terminal import Terminal, drop_typed
from runbook.interpreter.effects import Question
from runbook.runner import people, processes
from runbook.runner.wording import one_line, tame, value

DOUBT = {
    "done": "it happened; go on",
    "repeat": "it did not; do it (again)",
    "fail": "treat it as failed",
}
FAILURE = {
    "retry": "try the step again",
    "continue": "go on as if it were tolerated",
    "undo": "take back what was changed, then end",
    "abort": "end as the playbook says",
}


LOOK = 0.2
"""Seconds between two looks whether somebody else has answered."""


class SettledError(Exception):
    """The question was answered elsewhere, or its time is over: nobody needs to type any more."""


class Asker:
    """Asks a person on this terminal. `quiet`: keeps the live screen off the lines while somebody types.

    `settled`: what became of a question that is not open any more, in words; '' while it is.
    """

    def __init__(
        self,
        terminal: Terminal,
        quiet: Callable[[], AbstractContextManager[None]],
        settled: Callable[[str], str] = lambda _key: "",
    ) -> None:
        self._terminal = terminal
        self._quiet = quiet
        self._settled = settled
        self._key = ""
        self._one = threading.Lock()

    def __call__(self, question: Question) -> people.Answer | None:
        """The answer; None when nobody is there (end of input)."""
        with self._one, self._quiet():
            self._key = question.key
            self._terminal.say(f"\n{self._terminal.paint('☐ ' + one_line(question.step), 'cyan')}")
            if question.text:
                self._terminal.say("  " + tame(question.text).replace("\n", "\n  "))
            try:
                return self._ask(question)
            except SettledError as settled:
                self._terminal.say(f"\n  {settled}; nothing more to answer here")
                return self._answer("")  # counts no more, and the next question is asked here as well
            except (EOFError, click.Abort, OSError):
                self._terminal.say("\n  no answer here; the run waits for one (runbook answer)")
                return None

    def _ask(self, question: Question) -> people.Answer:
        match question.kind:
            case "approve":
                choice = self._choose({"approve": "yes, go on", "decline": "no: the run is cancelled"})
                return self._answer(choice, comment=self._line("comment (may be empty)"))
            case "checklist":
                return self._checklist(question.options.get("sections") or {})
            case "in_doubt":
                if question.options.get("args"):
                    self._terminal.say(f"  {question.options.get('action', '')} {value(question.options['args'], 300)}")
                return self._answer(self._choose(_known(question, DOUBT)))
            case "failure":
                return self._answer(self._choose(_known(question, FAILURE)))
            case "choose":
                texts = question.options.get("choices") or {}
                return self._answer(self._choose({str(name): value(text) for name, text in texts.items()}))

    def _answer(self, choice: str, comment: str = "", items: Sequence[Mapping[str, object]] = ()) -> people.Answer:
        return people.Answer(choice, processes.user(), time.time(), comment, tuple(items))

    def _choose(self, choices: Mapping[str, str]) -> str:
        """One of the choices by name, unambiguous beginning, or number."""
        width = max(map(len, choices), default=0)
        for number, (name, text) in enumerate(choices.items(), 1):
            self._terminal.say(f"  {number}  {name:<{width}}  {one_line(text)}".rstrip())
        while True:
            typed = self._line("answer")
            picked = chosen(typed, tuple(choices))
            if picked is not None:
                return picked
            self._terminal.say(f"  not one of them: {', '.join(choices)}")

    def _checklist(self, sections: Mapping[str, object]) -> people.Answer:
        self._terminal.say("  y: done   n: open   anything after it is kept as a note   (y, checked in the log)")
        items: list[Mapping[str, object]] = []
        for title, texts in sections.items():
            self._terminal.say(f"  {self._terminal.paint(one_line(str(title)), 'bold')}")
            listed = texts if isinstance(texts, list | tuple) else [texts]
            items += [self._item(str(text)) for text in listed]
        return self._answer("", items=items)

    def _item(self, text: str) -> Mapping[str, object]:
        while True:
            typed = self._line(f"  [y/n] {one_line(text)}")
            mark, _, note = typed.partition(",") if "," in typed else typed.partition(" ")
            if mark.strip().lower() in ("y", "yes", "n", "no"):
                return {"text": text, "checked": mark.strip().lower().startswith("y"), "note": note.strip()}
            self._terminal.say("    y or n, please")

    def _line(self, prompt: str) -> str:
        """A line of the terminal. Not `input`: its readline belongs to the main thread."""
        self._terminal.say(f"  {prompt}: ", nl=False)
        self._until_typed()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.strip()

    def _until_typed(self) -> None:
        """Wait for a line, or (SettledError) until the question is settled without one."""
        try:
            keyboard = sys.stdin.fileno()
        except (OSError, ValueError):
            return
        while not select.select([keyboard], [], [], LOOK)[0]:
            settled = self._settled(self._key)
            if settled:
                drop_typed()
                raise SettledError(settled)


def chosen(typed: str, choices: Sequence[str]) -> str | None:
    """What was meant: a name, its number from 1, or the beginning of exactly one name; `y`/`n` for approve/decline."""
    word = typed.strip().lower()
    if not word:
        return None
    if word.isdigit() and 1 <= int(word) <= len(choices):
        return choices[int(word) - 1]
    exact = [name for name in choices if name.lower() == word]
    if exact:
        return exact[0]
    if set(choices) == {"approve", "decline"} and word in people.YES | people.NO:
        return "approve" if word in people.YES else "decline"
    near = [name for name in choices if name.lower().startswith(word)]
    return near[0] if len(near) == 1 else None


def _known(question: Question, words: Mapping[str, str]) -> dict[str, str]:
    return {str(name): words.get(str(name), "") for name in question.options.get("choices") or words}
