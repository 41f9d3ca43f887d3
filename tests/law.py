"""The law: killed at any write of the journal and resumed, a run is what it would have been."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.interpreter.effects import Call
from runbook.interpreter.engine import Outcome
from runbook.interpreter.model import Playbook
from tests.effects_toy import Disk, Toy
from tests.playbooks_toy import engine


@dataclass(frozen=True)
class Case:
    """A playbook, the world that it finds, when the user cancels, and what people answer."""

    playbook: Playbook
    world: Mapping[str, Any] = field(default_factory=dict)
    cancels: tuple[float, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)
    rounds: tuple[str, ...] = ()  # after the run: undo, finish


@dataclass(frozen=True)
class Played:
    """One process: its outcome (None: killed) and its effects."""

    out: Outcome | None
    toy: Toy


def play(case: Case, world: dict[str, Any], disk: Disk | None = None, crash_at: int | None = None) -> Played:
    toy = Toy(world, disk, crash_at=crash_at, cancels=case.cancels, answers=case.answers)
    made = engine(case.playbook, toy)

    async def main() -> Outcome:
        out = await made.run()
        toy.cancels = ()  # of the run; when a round begins hangs on when the last notification was told
        for number, what in enumerate(case.rounds, 1):
            out = await (made.undo(number) if what == "undo" else made.finish(number))
        return out

    return Played(toy.play(made, main()), toy)


def facts(played: Played, world: Mapping[str, Any]) -> dict[str, Any]:
    """What must not depend on kills. None in the world: nothing there."""
    assert played.out is not None
    out = played.out
    return {  # numbers in keys are not compared: an answered doubt is one more record
        "status": out.status,
        "kind": out.kind,
        "by": out.by,
        "blame": (out.step, out.path),
        "undone": out.undone,
        "world": {
            key: _unnumbered(repr(sorted(value) if isinstance(value, tuple) else value))
            for key, value in world.items()
            if value not in (None, ())
        },
        "steps": {_unnumbered(key): status for key, status in played.toy.statuses().items() if not _told(key)},
        "milestones": standing(played.toy),
        "left": [left.key for left in played.toy.engine.unfinished()],
    }


def _told(key: str) -> bool:
    """Notifications of branches that run at once queue in the order in which they come: a resume may change it."""
    return key.rpartition("/")[2].startswith("tell")


def _unnumbered(text: str) -> str:
    return re.sub(r"((?:!undo|!temporary)(?:~\d+)?|@undo\[\d+\])\[\d+\]", r"\1[]", text)


def standing(toy: Toy) -> list[str]:
    """The milestones that are met at the end."""
    back = toy.events("milestone.taken_back")
    return sorted({data["name"] for key, data in toy.events("milestone").items() if key not in back})


def undisturbed(case: Case) -> tuple[Played, dict[str, Any], dict[str, Any]]:
    """The run, the world after it, and its facts; replaying it touches nothing."""
    world = dict(case.world)
    played = play(case, world)
    wanted = facts(played, world)
    nothing: dict[str, Any] = {}
    replayed = play(case, nothing, played.toy.disk.copy())
    assert nothing == {}, "a replay touched the world"
    assert replayed.toy.writes == 0, "a replay wrote to the journal"
    got = facts(replayed, world)
    assert got == wanted, f"a replay differs: {difference(wanted, got)}"
    return played, world, wanted


def killed(case: Case, points: tuple[int, ...], wanted: Mapping[str, Any]) -> Played:
    """Killed at the given writes, one process after the other, then resumed to the end: the same facts."""
    world = dict(case.world)
    disk: Disk | None = None
    for point in points:
        played = play(case, world, disk, crash_at=point)
        disk = played.toy.disk
        if played.out is not None:
            break
    else:
        played = play(case, world, disk)
    got = facts(played, world)
    assert got == wanted, f"killed at {points}: {difference(wanted, got)}"
    return played


def everywhere(case: Case) -> int:
    """Killed at every write, and once more a little later. How many kills that were."""
    played, _, wanted = undisturbed(case)
    for point in range(played.toy.writes):
        killed(case, (point,), wanted)
        killed(case, (point, 1 + point % 4), wanted)
    return 3 * played.toy.writes


def somewhere(case: Case, r: random.Random, many: int) -> int:
    """Killed at some random writes, twice each."""
    played, _, wanted = undisturbed(case)
    points = sorted(r.sample(range(played.toy.writes), min(many, played.toy.writes)))
    for point in points:
        killed(case, (point,) if r.random() < 0.3 else (point, r.randint(0, 6)), wanted)
    return 2 * len(points)


def difference(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, Any]:
    """Only what differs: (wanted, got)."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys((*wanted, *got)):
        one, other = wanted.get(key), got.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= {f"{key}.{name}": pair for name, pair in difference(one, other).items()}
        elif one != other:
            found[key] = (one, other)
    return found


def identity(call: Call) -> tuple[Any, ...]:
    """What makes two calls of two processes the same one."""
    return call.key, call.action, repr(call.args), call.inverse
