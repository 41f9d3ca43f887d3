"""The two clocks of a run. Nobody can set either: both go by the machine's monotonic clock from what is on record.

Running time is what boxes count: it stands still while the run is down and while only people are waited for.
Wall time is for people and objectives: it starts at the later of now and what is on record, and never jumps.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Both clocks of one process of a run.

    `running`: the last recorded running time (0 for a new run). `wall`: the last recorded Unix time.
    """

    def __init__(
        self,
        running: float = 0.0,
        wall: float = 0.0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._zero = monotonic()
        self._running = running
        self._wall = max(unix(), wall)
        self._held: float | None = None  # since when running time stands still

    def running(self) -> float:
        """Running seconds of the run."""
        now = self._monotonic() if self._held is None else self._held
        return self._running + now - self._zero

    def wall(self) -> float:
        """Unix time."""
        return self._wall + self.real()

    def real(self) -> float:
        """Seconds since this clock was made; never stands still."""
        return self._monotonic() - self._zero

    def hold(self) -> None:
        """Running time stands still from now on."""
        if self._held is None:
            self._held = self._monotonic()

    def go(self) -> None:
        """Running time goes on."""
        if self._held is not None:
            self._running -= self._monotonic() - self._held
            self._held = None

    @property
    def held(self) -> bool:
        return self._held is not None
