"""Rounds after the run: `runbook undo`, and what a second cancel left of the clean-up. Played by the code of the run.

They come after a replay of the run, with keys and boxes of their own; a round that was killed is resumed like a run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from runbook.interpreter import lane
from runbook.interpreter.changes import inside, plain
from runbook.interpreter.effects import Box, Fault, Record
from runbook.interpreter.model import Playbook
from runbook.interpreter.outcome import Outcome, stopped
from runbook.interpreter.run import Run
from runbook.interpreter.undo import Playback
from runbook.interpreter.unwind import Left, Unwinding, handler, needed, not_done


class Rounds(Run):
    """What can still be done for a run that has ended. During a round `work`, `hard` and `lane` are the round's."""

    playbook: Playbook

    async def undo(self, number: int, accepted: Collection[str] = ()) -> Outcome:
        """`runbook undo`: the whole log played back by the same code that plays it in a run.

        `accepted`: paths of changes that somebody saw to by hand or leaves as they are, from this round on.
        """
        self.log.accept(accepted)
        key = f"@undo[{number}]"
        begun = await self._round(key)
        if begun.by is not None:
            return stopped(begun, "not started")
        changes = self.log.within("")
        cleanup = max(self.playbook.cleanup, needed(changes, self.playbook))
        room = self.box(f"{key}!undo", self.work, begun.at + cleanup)
        out = await Playback(self, "", erase=True).play(changes, key, room)
        if out.by == room.key:
            out = replace(out, by=None, error=not_done(cleanup, out.error))
        return await self._tidied(key, replace(out, at=max(out.at, begun.at), undone=out.ok and bool(out.outputs)))

    async def finish(self, number: int) -> Outcome:
        """After a second cancel: the clean-up that was skipped or cut, innermost first, and nothing else."""
        key = f"@finish[{number}]"
        begun = await self._round(key)
        if begun.by is not None:
            return stopped(begun, "not started")
        self.finishing = True
        out = Outcome(at=begun.at, wall=begun.wall)
        todo, self.left = self.unfinished(), []
        for left in todo:
            out = await self._finished(left, number, out)
        out = await self._tidied(key, out)
        await lane.joined(self)
        return out

    async def _finished(self, left: Left, number: int, out: Outcome) -> Outcome:
        key = f"{left.key}~{number}"
        begun = await self.fx.start(
            key, self.work, {"id": left.phase, "kind": "phase", "name": left.phase, "action": ""}
        )
        if begun.by is not None:
            self.left.append(left)
            return stopped(begun, "not started") if out.ok else out
        room = self.box(key, self.work, begun.at + left.cleanup)
        if left.phase == "undo":
            done = await Playback(self, left.path, erase=True).play(self.log.within(left.path), key, room)
        elif left.phase == "temporary":
            done = await Playback(self, left.path, erase=False).play(self.log.open(left.path), key, room)
        else:
            assert left.scope is not None
            done = await handler(self, left.steps, left.scope, left.cleanup)(key, room)
        if done.by is not None and done.by != key:
            self.left.append(left)
        if done.ok:
            return replace(out, at=max(out.at, done.at))
        error = done.error or Fault(done.status)
        if out.ok:
            return replace(done, by=None if done.by == key else done.by)
        return replace(out, others=(*out.others, error), at=max(out.at, done.at))

    async def _round(self, key: str) -> Record:
        self.work = Box(key, None)
        self.hard = Box(f"{key}@hard", None)
        self.lane = Box(f"{key}@lane", self.hard)
        self.lanes, self.telling = {}, []
        for box in (self.work, self.hard, self.lane):
            self.fx.opened(box)
        return await self.fx.start(key, self.work, {"id": "", "kind": "round", "name": key, "action": ""})

    async def _tidied(self, key: str, out: Outcome) -> Outcome:
        """Temporary changes that are (again) not back, at the end of a round."""
        end = Unwinding(self, key, self.playbook.cleanup, out)
        changes = self.log.open("")
        if changes:
            await end.phase("temporary", lambda at, room: Playback(self, "", erase=False).play(changes, at, room))
        return end.result()

    def unfinished(self) -> list[Left]:
        """The clean-up that a second cancel skipped or cut."""
        repeated = [plain(left.key) for left in self.left if left.steps]
        kept = [left for left in self.left if not any(_repeats(key, plain(left.path)) for key in repeated)]
        shown = [left for left in kept if left.phase != "temporary" or self._still_open(left, kept)]
        return sorted(shown, key=lambda left: left.seq)

    def _still_open(self, left: Left, kept: Sequence[Left]) -> bool:
        """Whether there is a temporary change that no scope further in gives back."""
        others = (one for one in kept if one is not left and one.phase == "temporary")
        inner = [one.path for one in others if inside(one.path, left.path)]
        return any(not any(inside(plain(done.path), path) for path in inner) for done in self.log.open(left.path))


def _repeats(key: str, path: str) -> bool:
    """Whether the handler at `key`, played again, unwinds the scope at `path` itself."""
    return path == key or inside(path, key)
