"""The live screen: a tree that redraws itself, the objectives' clocks, the tail of what runs, progress."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from runbook.cli.screen import step_line, tree
from runbook.cli.terminal import Terminal
from runbook.interpreter.frozen import frozen
from runbook.runner.journal import Event
from runbook.runner.run_tree import StepView, step_of
from runbook.runner.view import RunView
from runbook.runner.wording import clock, one_line, span

FRAMES = 8  # a second
TAIL = 3  # lines of what the running step says
ROOM = 8  # lines of the screen that are not the tree
ASKED = 6  # lines of a question below it
WHOLE = 200  # lines of the tree that stay at the end
BAR = 20  # characters of a progress bar
SIGNS = "Ctrl-C cancels and cleans up; a second one, after a second, stops at once"
CANCELLED = "cancelled, cleaning up; Ctrl-C again leaves the rest to `runbook resume`"
CUT = "stopping; what is left of the clean-up stays open"


@frozen
class Clock:
    """One objective to watch: `since` is a milestone's name, a Unix time, or None for the run's start."""

    name: str
    within: float
    since: str | float | None = None


class LiveScreen:
    """Follows a run on a terminal. Events come from the run's thread, frames from rich's own."""

    def __init__(self, terminal: Terminal, clocks: Sequence[Clock] = (), console: Console | None = None) -> None:
        self.view = RunView()
        self._terminal = terminal
        self._clocks = tuple(clocks)
        self._console = console or Console(no_color=not terminal.color, highlight=False)
        self._lock = threading.RLock()
        self._tails: dict[str, deque[str]] = {}
        self._progress: dict[str, tuple[float, float]] = {}
        self._notice = ""  # the run's own last word
        self._skew = 0.0  # seconds that the run's clock is ahead of ours
        self._live: Live | None = None
        self._over = False
        self._typing = False
        self._known = 0  # the newest event that was there before

    def __enter__(self) -> LiveScreen:
        self._known = self.view.seq
        self._start()
        return self

    def __exit__(self, *ended: object) -> None:
        """The live part goes; the tree stays on the screen as it ended, folded when it is long.

        Where nothing happened (somebody else runs it), there is nothing to show.
        """
        self._over = True
        self._stop()
        if self.view.seq == self._known:
            return
        if self._typing:  # somebody else answered: the question's line ends here
            self._console.print()
        with self._lock:
            lines = list(tree(self.view, self._terminal))
            if len(lines) > WHOLE:
                rows = folded(self.view.root.children, 0)
                lines = ["  " * depth + step_line(step, self._terminal) for depth, step in rows]
            if len(lines) > WHOLE:
                lines = [f"… {len(lines) - WHOLE} lines above: runbook show", *lines[-WHOLE:]]
            for line in lines:
                self._console.print(Text.from_ansi(line), soft_wrap=True)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is drawn while a person types; how far the run is stands above the question."""
        self._stop()
        self._typing = True
        with self._lock:
            now, height = time.time() + self._skew, self._console.size.height
            for line in (self._head(now), *self._shown(now, max(3, height - ROOM - ASKED))):
                self._console.print(Text.from_ansi(line), soft_wrap=True)
        try:
            yield
        finally:
            self._typing = False
            self._start()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.view.add(event)
            self._skew = event.wall - time.time()
            step = step_of(event.key)
            if event.kind == "log" and self.view.is_own_word(event.key):
                self._notice = one_line(str(event.data.get("text", "")))
            elif event.kind == "log":
                tail = self._tails.setdefault(step, deque(maxlen=TAIL))
                tail.extend(one_line(line) for line in str(event.data.get("text", "")).splitlines()[-TAIL:])
            elif event.kind == "progress":
                self._progress[step] = (float(event.data.get("done", 0)), float(event.data.get("total", 0)))
            elif event.kind in ("locked", "answered"):
                self._notice = ""
            elif event.kind == "step.ended":
                self._tails.pop(step, None)
                self._progress.pop(step, None)

    def _start(self) -> None:
        if self._over:  # the run ended while somebody was still asked
            return
        self._live = Live(
            console=self._console,
            get_renderable=self._frame,
            refresh_per_second=FRAMES,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    # -- one frame

    def _frame(self) -> Text:
        with self._lock:
            width, height = self._console.size
            lines = list(self.lines(time.time() + self._skew, height))
        frame = Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis")
        frame.truncate(width * len(lines))
        return frame

    def lines(self, now: float, height: int) -> Iterator[str]:
        """The picture at Unix time `now`, no more than `height` lines."""
        paint = self._terminal.paint
        yield self._head(now)
        clocks = "   ".join(self._clock(entry, now) for entry in self._clocks)
        if clocks:
            yield clocks
        yield from self._shown(now, max(3, height - ROOM - bool(clocks)))
        for step in self._running():
            yield from (paint(f"  {step.id} | {line}", "dim") for line in self._tails.get(step.key, ()))
            if step.key in self._progress:
                yield f"  {step.id} {bar(*self._progress[step.key])}"
        if self._notice:
            yield paint(self._notice, "cyan")
        stopped = {box for box, _, _ in self.view.stops}
        if "@hard" in stopped:
            yield paint(CUT, "yellow")
        else:
            yield paint(CANCELLED, "yellow") if "@run" in stopped else paint(SIGNS, "dim")

    def _head(self, now: float) -> str:
        paint = self._terminal.paint
        simulated = paint("  SIMULATED", "yellow") if self.view.simulated else ""
        return (
            f"{paint(self.view.name, 'bold')}  {clock(self.view.elapsed(now))}  {paint(self.view.id, 'dim')}{simulated}"
        )

    def _running(self) -> list[StepView]:
        return [s for _, s in self.view.walk() if s.status == "running" and not s.children][:2]

    def _clock(self, entry: Clock, now: float) -> str:
        paint = self._terminal.paint
        met = self.view.milestones.get(entry.name)
        since = entry.since if entry.since is not None else self.view.started
        if isinstance(since, str):
            before = self.view.milestones.get(since)
            if before is None or before.taken_back:
                return paint(f"{entry.name} {span(entry.within)} after {since}", "dim")
            since = before.wall
        if since is None:
            return paint(f"{entry.name} {span(entry.within)}", "dim")
        if met is not None and not met.taken_back:
            good = met.wall - since <= entry.within
            return paint(
                f"{entry.name} {'met' if good else 'missed'} {clock(met.wall - since)}", "green" if good else "red"
            )
        left = since + entry.within - now
        if left < 0:
            return paint(f"{entry.name} missed, {clock(-left)} over", "red")
        return paint(f"{entry.name} {clock(left)} left", "yellow" if left < entry.within / 4 else "cyan")

    def _shown(self, now: float, room: int) -> Iterator[str]:
        """The tree in at most `room` lines: finished parts are folded first, then what ended longest ago."""
        rows = [*folded(self.view.root.children, 0)]
        left_out = len(rows) - room
        if left_out > 0:
            rows = rows[left_out + 1 :]
            yield self._terminal.paint(f"… {left_out + 1} lines above: runbook show", "dim")
        for depth, step in rows:
            yield "  " * depth + step_line(step, self._terminal, now)


def folded(steps: Sequence[StepView], depth: int) -> Iterator[tuple[int, StepView]]:
    """The nodes worth a line while things move: a part that ended well is one line, whatever it holds."""
    for step in steps:
        yield depth, step
        if step.status not in ("succeeded", "skipped") or any(child.status == "running" for child in step.children):
            yield from folded(step.children, depth + 1)


def bar(done: float, total: float) -> str:
    """`[#######-------] 35%`, or the bare number where the total is not known."""
    if total <= 0:
        return f"{done:g}"
    share = min(1.0, max(0.0, done / total))
    filled = round(share * BAR)
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {share:.0%}"


def clocks_of(objectives: Sequence[Mapping[str, object]]) -> tuple[Clock, ...]:
    """The clocks of objectives as data: `{name, within, since}`."""
    made = []
    for entry in objectives:
        since, within = entry.get("since"), entry.get("within")
        if isinstance(within, int | float) and (since is None or isinstance(since, str | float | int)):
            made.append(Clock(str(entry.get("name", "")), float(within), since))
    return tuple(made)
