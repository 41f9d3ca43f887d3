"""Whether a question for people can be answered at all: rules over its parameters, at load and when it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runbook.interpreter.unknown import Unknown

ANYONE = "any"
Wrong = tuple[str, str, str]
_ITEMS = "each section has a title and at least one item: {Before we start: [The backup is there]}"


def problems(action: str, args: Mapping[str, Any]) -> Iterator[Wrong]:
    """What is wrong with the parameters of a `manual.*`, taken together: a parameter, a sentence and what to do, each.

    `args`: of the form that its schema asks for. About what is Unknown, and what was not given, nothing is said.
    """
    match action:
        case "manual.approve":
            yield from _approve(args)
        case "manual.choose":
            yield from _choose(args)
        case "manual.checklist":
            yield from _checklist(args)


def _approve(args: Mapping[str, Any]) -> Iterator[Wrong]:
    named, by = args.get("approvers", [ANYONE]), args.get("by", 1)
    if _open(named):
        return
    if not named:
        yield "approvers", "approvers is empty: nobody could approve", f"write [{ANYONE}], or leave it out"
    elif not _open(by) and not any(map(_open, named)) and ANYONE not in named and len(set(named)) < by:
        sentence = f"by: {by} needs more people than the {len(set(named))} in approvers"
        yield "by", sentence, "name as many, or ask for fewer"


def _choose(args: Mapping[str, Any]) -> Iterator[Wrong]:
    choices, default = args.get("choices"), args.get("default")
    if _open(choices):
        return
    if not choices:
        yield "choices", "choices is empty: there is nothing to choose", "name at least one: {name: text}"
    elif default is not None and not _open(default) and default not in choices:
        sentence = f"default: {default} is not one of the choices ({', '.join(choices)})"
        yield "default", sentence, "name one of them, or leave it out: then the step fails at its timeout"


def _checklist(args: Mapping[str, Any]) -> Iterator[Wrong]:
    sections = args.get("sections")
    if _open(sections):
        return
    if not sections:
        yield "sections", "sections is empty: there is nothing to tick off", _ITEMS
        return
    for title, entries in sections.items():
        listed = entries if isinstance(entries, list | tuple) else [entries]  # one sentence alone is a list of it
        if not listed or not all(map(_sentence, listed)):
            yield "sections", f"sections: {title} is not a list of sentences", _ITEMS


def _sentence(entry: Any) -> bool:
    return _open(entry) or (isinstance(entry, str | int | float) and entry != "")


def _open(value: Any) -> bool:
    """Whether a value is known only when the step begins."""
    return isinstance(value, Unknown)


def without(initiator: str, args: Mapping[str, Any]) -> Iterator[str]:
    """Why an approval cannot be met where whoever started the run may not approve it."""
    named, by, bars = args.get("approvers", [ANYONE]), args.get("by", 1), args.get("not_initiator", False)
    if not initiator or _open(named) or _open(by) or _open(bars) or any(map(_open, named)):
        return
    others = set(named) - {initiator}
    if bars and ANYONE not in named and len(others) < by:
        yield f"by: {by} needs more people than the {len(others)} in approvers who did not start this run ({initiator})"


def as_written(value: Any) -> Any:
    """Parameters as they stand in a playbook, with an Unknown in place of every template."""
    if isinstance(value, str):
        return Unknown("its step") if "{{" in value else value
    if isinstance(value, Mapping):
        return {key: as_written(item) for key, item in value.items()}
    return [as_written(item) for item in value] if isinstance(value, list) else value
