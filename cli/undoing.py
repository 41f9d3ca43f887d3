"""What an undo will do, said before it begins: what it takes back, where it stops, and the command that goes on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from runbook.cli.looking import store, view_of
from runbook.cli.onward import command
from runbook.cli.terminal import Terminal
from runbook.runner.standing import Standing
from runbook.runner.view import RunView
from runbook.runner.wording import one_line


def lines(stands: Sequence[Standing], run: str, terminal: Terminal) -> Iterator[str]:
    """What an undo of this run does, in its order."""
    view, _ = view_of(store().find(run))
    yield f"{view.name}  run {view.id}"
    for line in _lines(stands, view, terminal):
        yield f"  {line}"


def question(stands: Sequence[Standing]) -> str:
    """What is asked below these lines."""
    return "Undo as far as that?" if any(one.stops for one in stands) else "Undo?"


def _lines(stands: Sequence[Standing], view: RunView, terminal: Terminal) -> Iterator[str]:
    if not stands:
        yield "no change of this run stands"
    stopped = False
    for one in stands:
        action = terminal.paint(one.action, "dim")
        if one.accepted:
            told = view.accepted_of(one.path)
            by = f" (accepted by {one_line(told.by)})" if told is not None else ""
            yield f"leave as it is {one.path}  {action}{by}"
        elif stopped:
            yield terminal.paint(f"not reached {one.path}  {one.action}", "dim")
        elif one.stops:
            stopped = one.way == "none"
            yield from _stop(one, view, terminal)
        else:
            yield f"take back {one.path}  {action}"


def _stop(one: Standing, view: RunView, terminal: Terminal) -> Iterator[str]:
    """What an undo cannot pass, or could not the last time."""
    if one.way == "none":
        yield terminal.paint(f"stop at {one.path}: nothing takes {one.action} back", "yellow")
        yield f"  see to it by hand, then: {accepting(view, one.path)}"
        return
    yield f"take back {one.path}  {terminal.paint(one.action, 'dim')}"
    yield terminal.paint(f"  could not be taken back before: {one_line(one.error)}", "yellow")
    yield f"  if it cannot again, see to it by hand, then: {accepting(view, one.path)}"


def accepting(view: RunView, path: str) -> str:
    """The command that goes on without this change."""
    return command(view, "undo", "--accept", shlex.quote(path))
