"""What was read from a text, and where each node of it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from runbook.interpreter import yaml_errors
from runbook.interpreter.errors import Place, Problem

Mark: TypeAlias = int  # line << 32 | column, both from 0: a hundred thousand of them cost the garbage collector nothing
Marks: TypeAlias = dict[Any, tuple[Mark, Mark]]  # key (of a list: the index) -> the marks of the key and of the value
_COLUMN = (1 << 32) - 1


@dataclass(slots=True)
class Source:
    """What a text holds. `data` is plain (dict, list, str, int, float, bool, None); None where nothing could be read.

    Places are kept beside the data, by the identity of the container; `place` answers for a container that came from
    here.
    """

    file: str
    text: str
    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    broken: bool = False  # a syntax error: what follows it was not read
    _marks: dict[int, tuple[Any, Mark, Marks]] = field(default_factory=dict)
    _lines: list[str] | None = None

    def knows(self, container: Any) -> bool:
        """Whether this list or map was read from this text."""
        known = self._marks.get(id(container))
        return known is not None and known[0] is container

    def mark(self, container: Any, start: Mark, marks: Marks) -> None:
        """Remember where a container and its items stand."""
        self._marks[id(container)] = (container, start, marks)

    def place(self, container: Any, key: Any = None, *, of_key: bool = False) -> Place:
        """Where `container` begins, or with `key` where that item's value (`of_key`: its key) stands."""
        known = self._marks.get(id(container))
        if known is None or known[0] is not container:
            return Place(self.file)
        _, start, marks = known
        if key is not None and key in marks:
            key_mark, value_mark = marks[key]
            start = key_mark if of_key else value_mark
        return place_of_mark(self.file, start)

    def inside(self, place: Place, value: str, offset: int) -> Place:
        """The place of the `offset`-th character of the text that begins at `place`; `place` itself where it was
        folded or escaped.
        """
        lines = self.lines()
        if not 0 < place.line <= len(lines) or offset <= 0:
            return place
        line = lines[place.line - 1]
        begun = place.column - 1
        opening = line[begun : begun + 1]
        if opening == "|":
            wanted = value[:offset].count("\n")
            row = place.line + wanted
            written = value.split("\n")[wanted]
            start = lines[row].find(written) if row < len(lines) else -1
            column = offset - (value.rfind("\n", 0, offset) + 1)
            return Place(place.file, row + 1, start + column + 1) if start >= 0 else place
        begun += opening in ("'", '"')
        if line.startswith(value[: offset + 1], begun):
            return Place(place.file, place.line, begun + offset + 1)
        return place

    def lines(self) -> list[str]:
        """The text's lines."""
        if self._lines is None:
            self._lines = yaml_errors.LINE_END.split(self.text)
        return self._lines


def place_of_mark(file: str, mark: Mark) -> Place:
    return Place(file, (mark >> 32) + 1, (mark & _COLUMN) + 1)
