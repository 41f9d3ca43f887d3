"""A scenario's answers: outcomes of actions that the sandbox does not simulate, and of people. Checked when loaded."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter import source
from runbook.interpreter.catalogue import ActionSpec, Catalogue
from runbook.interpreter.errors import Problem
from runbook.interpreter.findings import did_you_mean, kind_of, shown
from runbook.runner import people

_YES_OR_NO = ("approve", "decline")
_PEOPLE: Mapping[str, tuple[str, ...]] = {
    "manual.approve": ("choice", "by", "comment"),
    "manual.choose": ("choice", "by", "comment"),
    "manual.checklist": ("choice", "answers", "by", "comment"),
}
"""What a person's answer may hold, by the action that asks."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of an action that is not simulated."""

    action: str
    match: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = None
    outputs: Mapping[str, Any] | None = None
    error: str | None = None
    temporary: bool = False
    decline: str | None = None

    def fits(self, action: str, args: Mapping[str, Any]) -> bool:
        """Whether a call is answered by this."""
        return action == self.action and all(_agrees(args.get(key), want) for key, want in self.match.items())

    def give(self) -> Mapping[str, Any]:
        """The outputs, or the error that it stands for."""
        if self.error is not None:
            text = f"SIMULATED: {self.error}"
            raise TemporaryError(text) if self.temporary else PermanentError(text)
        if self.decline is not None:
            return {"declined": self.decline}
        return self.outputs or {}


def _agrees(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, str):
        return bool(value == wanted)
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    return re.search(wanted, text) is not None


class Answers:
    """A scenario's answers and how often each was given."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._left = [[answer, answer.times] for answer in answers]
        self._lock = threading.Lock()

    def find(self, action: str, args: Mapping[str, Any]) -> Answer | None:
        """The first answer that fits and is not used up."""
        with self._lock:
            for entry in self._left:
                answer, left = entry
                if left != 0 and isinstance(answer, Answer) and answer.fits(action, args):
                    if isinstance(left, int):
                        entry[1] = left - 1
                    return answer
        return None


def problems(document: source.Source, catalogue: Catalogue) -> Iterator[Problem]:
    """What is wrong with the answers of a scenario whose form is right: no such action, parameter, output or choice."""
    for number, answer in enumerate(document.data.get("answers") or ()):
        path = f"answers[{number}]"
        spec = catalogue.get(answer["action"])
        if spec is None:
            place = document.place(answer, "action")
            hint = did_you_mean(answer["action"], catalogue) or "`runbook actions` lists them"
            yield _problem(place, f"there is no action `{shown(answer['action'])}`", f"{path}.action", hint=hint)
            continue
        yield from _match(document, answer, spec, path)
        yield from _outputs(document, answer, spec, path)
        if "decline" in answer and spec.name not in _PEOPLE:
            place = document.place(answer, "decline", of_key=True)
            yield _problem(place, f"{spec.name} asks nobody who could decline", path, "outputs or error")


def _match(document: source.Source, answer: Mapping[str, Any], spec: ActionSpec, path: str) -> Iterator[Problem]:
    known = spec.parameters.get("properties", {})
    match = answer.get("match") or {}
    for name, wanted in match.items():
        if name not in known:
            place = document.place(match, name, of_key=True)
            yield _unknown(place, f"{spec.name} has no parameter `{shown(name)}`", f"{path}.match", name, known)
        elif isinstance(wanted, str):
            try:
                re.compile(wanted)
            except re.error as error:
                place = document.place(match, name)
                yield _problem(place, f"`{name}` is no regular expression: {error}", f"{path}.match.{name}")


def _outputs(document: source.Source, answer: Mapping[str, Any], spec: ActionSpec, path: str) -> Iterator[Problem]:
    outputs = answer.get("outputs")
    if outputs is None or spec.name == "flow.set":  # its outputs are its values
        return
    known = _PEOPLE.get(spec.name) or tuple(spec.outputs)
    for name in outputs:
        if name not in known:
            place = document.place(outputs, name, of_key=True)
            yield _unknown(place, f"{spec.name} has no output `{shown(name)}`", f"{path}.outputs", name, known)
    if spec.name in _PEOPLE:
        for name, expected in _misanswered(spec.name, outputs):
            place = document.place(outputs, name) if name in outputs else document.place(answer, "outputs")
            got = f"{shown(outputs[name])} is" if name in outputs else "this is"
            yield _problem(place, f"{got} no answer to {spec.name}", f"{path}.outputs.{name}", expected)


def _misanswered(action: str, outputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The parts of a person's answer that no person could give, and what is expected."""
    choice, by = outputs.get("choice"), outputs.get("by", "")
    if action == "manual.approve" and "choice" in outputs and str(choice).lower() not in people.YES | people.NO:
        yield "choice", " or ".join(_YES_OR_NO)
    if action == "manual.choose" and (not isinstance(choice, str) or not choice):
        yield "choice", "the name of one of the choices"
    if action == "manual.checklist" and "choice" in outputs and choice not in ("all", "none"):
        yield "choice", "all or none, or `answers`"
    if not (isinstance(by, str) or (isinstance(by, list) and by and all(isinstance(one, str) for one in by))):
        yield "by", f"a name, or a list of them, not {kind_of(by)}"
    if not isinstance(outputs.get("comment", ""), str):
        yield "comment", "text"
    items = outputs.get("answers", [])
    fits = isinstance(items, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("text"), str)
        and isinstance(one.get("checked", False), bool)
        and isinstance(one.get("note", ""), str)
        for one in items
    )
    if not fits:
        yield "answers", "a list of {text, checked, note}"


def _unknown(place: Any, message: str, path: str, name: str, known: Iterable[str]) -> Problem:
    names = list(known)
    return _problem(place, message, path, f"one of {', '.join(names)}", did_you_mean(str(name), names))


def _problem(place: Any, message: str, path: str, expected: str = "", hint: str = "") -> Problem:
    return Problem(place, message, path=path, expected=expected, hint=hint, rule="scenario")
