"""The log of changes: what a run has begun to change, in the order of its journal, and what takes each of it back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from runbook.interpreter.effects import Call, Record
from runbook.interpreter.model import Step
from runbook.interpreter.outcome import error_view
from runbook.interpreter.scope import Scope


@dataclass(slots=True, eq=False)
class Done:
    """A change that was begun. Its `inverse` or its step's undo steps (`authored`) take it back, or nothing does."""

    seq: int
    path: str
    step: Step | None
    scope: Scope
    action: str = ""
    inverse: Call | None = None
    authored: bool = False
    again: bool = False  # its inverse is itself, after all the others
    irreversible: bool = False
    locks: tuple[str, ...] = ()
    returns: Done | None = None  # this change was the return of that temporary one
    open: bool = False  # a temporary change that is not back
    undone: bool = False
    accepted: bool = False  # somebody saw to it by hand, or leaves it as it is: no undo touches it
    covered: bool = False  # the undo steps of an enclosing block stand for it


class Log(list[Done]):
    """All changes of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[int, str]] = []  # every effect that may have happened, reversible or not: number, path
        self._paths: dict[str, Done] = {}
        self._temporary: list[Done] = []

    def remember(self, done: Done) -> None:
        """The first attempt's inverse is kept: a later one may already see what the first did."""
        if done.path not in self._paths:
            self._paths[done.path] = done
            self.append(done)
            if done.open:
                self._temporary.append(done)

    def within(self, path: str, *, own: bool = True) -> list[Done]:
        """What is to be taken back under `path`. `own`: the change of that very step too."""
        outer = plain(path)
        return [d for d in self if not (d.undone or d.covered or d.accepted) and _within(plain(d.path), outer, own)]

    def accept(self, paths: Collection[str]) -> None:
        """Leave these changes as they are, for good. With a temporary change goes its return: they are a pair."""
        for done in self:
            if done.path in paths or (done.returns is not None and done.returns.path in paths):
                done.accepted, done.open = True, False

    def lend(self, path: str) -> None:
        """A temporary step ended that is more than one action: all that it changed is given back where it stands."""
        for done in self.within(path):
            done.open = True
            if done not in self._temporary:
                self._temporary.append(done)

    def open(self, path: str) -> list[Done]:
        """Temporary changes inside `path` that are not back."""
        return [d for d in self._temporary if d.open and not d.undone and inside(plain(d.path), plain(path))]

    def effects(self, path: str) -> Iterator[int]:
        """Numbers of the effects that began at or inside `path`."""
        return (seq for seq, at in self.begun if at == path or inside(at, path))

    def first_effect(self) -> int | None:
        """The number of the first effect of the run."""
        return min((seq for seq, _ in self.begun), default=None)


def plain(path: str) -> str:
    """A path without the numbers of the rounds that finish it: what is repeated there stands for the first try."""
    return re.sub(r"~\d+", "", path) if "~" in path else path


def inside(path: str, outer: str) -> bool:
    """Whether `path` lies strictly inside `outer` ('' or `x/`: a whole playbook)."""
    if outer == "" or outer.endswith("/"):
        return path.startswith(outer)
    return path.startswith(outer) and path[len(outer) : len(outer) + 1] in ("/", "[", "!")


def _within(path: str, outer: str, own: bool) -> bool:
    return inside(path, outer) or (own and path == outer)


def change_of(
    record: Record, step: Step, scope: Scope, path: str, call: Call, locks: tuple[str, ...] = ()
) -> Done | None:
    """What an attempt's record adds to the log; None where nothing is to be taken back."""
    happened = (
        record.inverse is not None
        or record.irreversible
        or record.changed
        or (call.effect == "opaque" and record.status == "succeeded")
    )
    if not happened or (step.undo.kind == "none" and not step.temporary):
        return None
    done = Done(record.seq, path, step, scope, call.action, record.inverse, locks=locks, open=step.temporary)
    if step.undo.kind == "steps":
        done.inverse, done.authored = None, True
        result = {} if record.outputs is None else record.outputs
        done.scope = scope.naming(result=result, error=error_view(record.error))
    elif step.undo.kind == "again":
        done.inverse, done.again = record.inverse or call, True
    elif record.irreversible or (record.inverse is None and call.effect == "opaque"):
        done.irreversible, done.inverse = True, None
    elif record.inverse is None:
        return None
    return done
