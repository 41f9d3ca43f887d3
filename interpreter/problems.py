"""Problems as they are found: each once, with the place of the very node and the path to it by step ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runbook.interpreter.errors import Place, Problem
from runbook.interpreter.findings import Finding, Findings
from runbook.interpreter.source import Source

MOST = 300  # a file that has more is not what its author meant


class TooManyError(Exception):
    """Enough was found to say."""


@dataclass(slots=True)
class Problems:
    """Collects problems; the same sentence about the same place is kept once (a default stands in every step)."""

    found: dict[tuple[Place, str], Problem] = field(default_factory=dict)

    def add(
        self,
        place: Place,
        message: str,
        path: str = "",
        *,
        rule: str,
        expected: str = "",
        hint: str = "",
        warning: bool = False,
    ) -> None:
        """Keep one. TooManyError when enough are kept."""
        if len(self.found) >= MOST:
            raise TooManyError
        severity = "warning" if warning else "error"
        problem = Problem(place, message, path=path, expected=expected, hint=hint, severity=severity, rule=rule)
        self.found.setdefault((place, message), problem)

    def no_time(self, place: Place, path: str) -> None:
        """A time-out of nothing: in other tools that means none at all."""
        hint = "nothing is unbounded: say how long, or leave it out for the default"
        self.add(place, "a `timeout` of nothing leaves no time at all", path, rule="timeout", hint=hint)

    def last(self, place: Place, message: str, rule: str) -> None:
        """Keep what ended the search."""
        self.found[(place, message)] = Problem(place, message, hint="mend these first", rule=rule)

    def extend(self, problems: list[Problem] | tuple[Problem, ...]) -> None:
        """Keep those of another file."""
        for problem in problems:
            self.found.setdefault((problem.place, problem.message), problem)

    def findings(self, findings: Findings, source: Source, root: Any, path: str) -> frozenset[str]:
        """Place what a check of form found in `root`. Returns the top-level keys that cannot be trusted."""
        spoiled = set()
        for one in findings:
            self.finding(one, source, root, path)
            if one.path:
                spoiled.add(str(one.path[0]))
        return frozenset(spoiled)

    def finding(self, finding: Finding, source: Source, root: Any, path: str) -> None:
        """Place one finding of a check of `root`."""
        place = place_of(source, root, finding.path, finding.of_key)
        where = path + dotted(finding.path[:-1] if finding.of_key else finding.path, bool(path))
        message = finding.message.replace("{name}", named(finding.path), 1)
        self.add(place, message, where, rule=finding.rule, expected=finding.expected, hint=finding.hint)

    def sorted(self) -> tuple[Problem, ...]:
        """All of them as they stand in the files."""
        return tuple(sorted(self.found.values(), key=lambda one: (one.place, one.severity != "error", one.message)))


def place_of(source: Source, root: Any, path: tuple[str | int, ...], of_key: bool = False) -> Place:
    """The place of the node at `path` in `root`, or of the last container on the way that was read from this text."""
    here = root
    place = source.place(root)
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if not source.knows(here):
            return place
        place = source.place(here, key, of_key=of_key and last)
        try:
            here = here[key]
        except (KeyError, IndexError, TypeError):
            return place
    return place


def dotted(path: tuple[str | int, ...], begun: bool) -> str:
    """`.with.names[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text if begun else text.removeprefix(".")


def named(path: tuple[str | int, ...]) -> str:
    """The node as a sentence calls it: `replicas`, or item 3 of `names`."""
    if not path:
        return "the value"
    if isinstance(path[-1], str):
        return f"`{path[-1]}`"
    keys = [part for part in path if isinstance(part, str)]
    return f"item {path[-1] + 1} of `{keys[-1]}`" if keys else f"item {path[-1] + 1}"
