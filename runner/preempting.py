"""`--preempt` of a run that waits for a person: nobody runs it, so who needs its locks ends it here."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runbook.interpreter.errors import RunbookError
from runbook.runner.locks import Holder, LockError

if TYPE_CHECKING:
    from runbook.runner.world import World

WHY = "another run needs its locks (--preempt)"


class Ender:
    """Cancels parked runs of this home and plays their clean-up, each in a thread of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._failed: dict[str, str] = {}  # run -> why it could not be ended

    def end(self, held: Holder) -> None:
        """Begin to; its locks come free when its clean-up is over."""
        threading.Thread(target=lambda: self._end(held.run), daemon=True, name=f"preempt-{held.run}").start()

    def trouble(self, held: Holder) -> LockError | None:
        """Why its locks will not come free by themselves."""
        why = self._failed.get(held.run)
        return LockError(f"{held}; it could not be made to give way: {why}") if why is not None else None

    def _end(self, run: str) -> None:
        from runbook.runner import session

        try:
            session.cancel(run, world=self._world, why=WHY)
            ended = session.resume(run, world=self._world)
            if ended.status == "waiting":
                self._failed[run] = "its clean-up asks a person"
        except RunbookError as error:
            self._failed[run] = error.message
        except Exception as error:  # noqa: BLE001  # whatever it is: who waits must hear of it
            self._failed[run] = f"{type(error).__name__}: {error}"
