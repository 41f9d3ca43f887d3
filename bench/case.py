"""What a case of the benchmark is given, and what it yields."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Figure, beside

TRUE = "  - {{id: s{n}, action: shell.run, with: {{command: [/bin/true]}}}}\n"


@dataclass(frozen=True, slots=True)
class Line:
    """One figure. `met`: whether its goal is, by wall time; None: it has none, or there is nothing to compare with.
    `spent`: whether the processor time alone is within the goal.
    """

    what: str
    wall: str
    cpu: str = ""
    goal: str = ""
    met: bool | None = None
    spent: bool = False

    def verdict(self) -> str:
        if self.met is None:
            return ""
        return "met" if self.met else "MISSED (met in processor time)" if self.spent else "MISSED"


class Bench:
    """One run of the benchmark in a folder of its own."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.few = 2 if quick else 5
        self.many = 3 if quick else 15
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUNBOOK_")},
            "RUNBOOK_HOME": str(folder / "home"),
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
            "NO_COLOR": "1",
        }
        self.runbook = str(Path(sys.executable).parent / "runbook")

    def write(self, name: str, text: str) -> str:
        """A file in the folder; its name."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return name

    def playbook(self, name: str, steps: str, root: str = "") -> list[str]:
        """Write a playbook; the command that runs it."""
        file = self.write(f"{name}.yaml", f"runbook: 1\nname: {name}\n{root}steps:\n{steps}")
        return [self.runbook, "run", file, "--yes"]

    def one(self) -> list[str]:
        """The smallest run."""
        return self.playbook("one", TRUE.format(n=0))

    def beside(self, *commands: list[str], runs: int, warmup: int = 1, expect: int = 0) -> list[Figure]:
        """Their medians."""
        return beside(commands, self.folder, self.environ, runs=runs, warmup=warmup, expect=expect)


def within(what: str, figure: Figure, goal: float) -> Line:
    """A whole command against seconds."""
    return Line(what, s(figure.wall), s(figure.cpu), f"<= {goal:g} s", figure.wall <= goal, figure.cpu <= goal)


def ms(seconds: float, digits: int = 0) -> str:
    """Milliseconds, for people."""
    return f"{seconds * 1000:.{digits}f} ms"


def s(seconds: float) -> str:
    """Seconds, for people."""
    return f"{seconds:.2f} s"
