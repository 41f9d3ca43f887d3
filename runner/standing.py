"""What stands of a run that has ended: what an undo would take back, in its order, and what it would stop at.

Also what people accept (`runbook undo RUN --accept STEP`): only what an undo stops at, so that nothing is left behind
that could have been taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from runbook.interpreter.changes import Done
from runbook.interpreter.errors import InvalidError
from runbook.interpreter.findings import did_you_mean
from runbook.interpreter.frozen import frozen
from runbook.interpreter.undo import in_order

if TYPE_CHECKING:
    from runbook.interpreter.engine import Engine
    from runbook.runner.recall import Recall
    from runbook.runner.rounds import Rounds

Way = Literal["inverse", "steps", "again", "none"]


@frozen
class Standing:
    """One change that is not taken back. `way`: what takes it back. `error`: why that failed the last time it was
    tried. `accepted`: somebody saw to it, or leaves it as it is."""

    path: str
    action: str
    way: Way
    error: str = ""
    accepted: bool = False

    @property
    def stops(self) -> bool:
        """Whether an undo stops at it, as far as anybody knows."""
        return not self.accepted and (self.way == "none" or bool(self.error))


def of_run(engine: Engine, recall: Recall, rounds: Rounds) -> list[Standing]:
    """What stands after the run and its rounds, in the order of an undo. `recall`: the engine's effects."""

    async def replayed() -> None:
        await engine.run()
        for what, number in rounds.played:
            if (what, number) != rounds.open:  # how far that one came is on record, its end is not
                await rounds.play(engine, what, number)

    recall.play(replayed())
    if rounds.open is not None:
        engine.log.accept(rounds.accepted[rounds.open[1]])
    stands = [done for done in engine.log if not (done.undone or done.covered or done.path in rounds.gone)]
    return [of(done, rounds.errors) for done in in_order(stands)]


def of(done: Done, errors: Mapping[str, str]) -> Standing:
    """A change of the engine's log."""
    way: Way = "none" if done.irreversible else "steps" if done.authored else "again" if done.again else "inverse"
    return Standing(done.path, done.action, way, errors.get(done.path, ""), done.accepted)


def accepted(stands: Sequence[Standing], paths: Collection[str]) -> list[Standing]:
    """The same, with these accepted."""
    return [replace(one, accepted=True) if one.path in paths else one for one in stands]


def chosen(
    names: Sequence[str], stands: Sequence[Standing], gone: Collection[str], known: Collection[str]
) -> list[str]:
    """The paths that people mean by `names` (a path, or its last id), where an undo stops.

    `gone`: paths that were taken back; `known`: all that the run did. InvalidError says why a name is none of them, and
    which are.
    """
    stops = [one.path for one in stands if one.stops or one.accepted]
    return [_chosen(name, stands, stops, gone, known) for name in names]


def _chosen(
    name: str, stands: Sequence[Standing], stops: Sequence[str], gone: Collection[str], known: Collection[str]
) -> str:
    hint = _hint(name, [one.path for one in stands if one.stops])
    found = _fits(name, stops)
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidError(f"--accept {name}: that may be {', '.join(found)}", hint="give one of these")
    if _fits(name, [one.path for one in stands]):
        raise InvalidError(f"--accept {name}: the undo takes it back, nothing has to be accepted", hint=hint)
    if _fits(name, gone):
        raise InvalidError(f"--accept {name}: it was taken back already", hint=hint)
    if _fits(name, known):
        raise InvalidError(f"--accept {name}: the undo leaves it as it is anyway", hint=hint)
    raise InvalidError(f"--accept {name}: no change of this run is called so", hint=hint)


def _fits(name: str, paths: Collection[str]) -> list[str]:
    return [path for path in paths if path == name] or [path for path in paths if path.rpartition("/")[2] == name]


def _hint(name: str, stops: Sequence[str]) -> str:
    if not stops:
        return "the undo stops nowhere, as far as it is known"
    meant = did_you_mean(name, [*stops, *(path.rpartition("/")[2] for path in stops)])
    where = f"the undo stops at: {', '.join(stops)}"
    return f"{meant} ({where})" if meant else where
