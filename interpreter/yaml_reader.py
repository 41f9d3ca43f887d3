"""The events of libyaml -> plain data, in one pass, with JSON's scalar rules. All else that YAML has is a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from runbook.interpreter import yaml_errors
from runbook.interpreter.errors import Problem
from runbook.interpreter.places import Mark, Marks, Source, place_of_mark
from runbook.interpreter.values import NUMBER

MAX_DEPTH = 100
MAX_PROBLEMS = 100
MAX_NODES = 400_000  # aliases count as what they stand for; 5,000 rich steps are 100,000
MAX_NUMBER = 300  # characters of a number
_CONSTANTS = {"true": True, "false": False, "null": None, "": None}
_MAYBE_JSON = frozenset(["", *"-0123456789tfn"])  # how a plain scalar begins that may be more than text
_KNOWN_TAGS = {"!": "str", "tag:yaml.org,2002:str": "str", "tag:yaml.org,2002:map": "", "tag:yaml.org,2002:seq": ""}


def _mark(event: Any) -> Mark:
    start = event.start_mark
    return int(start.line << 32 | start.column)


@dataclass(slots=True)
class _Frame:
    """A container that is being read. `key` is the pending key of a map; `is_key`: this container stands where a key
    should.
    """

    value: Any
    is_map: bool
    start: Mark
    index: int
    flow: bool
    is_key: bool
    anchor: str | None
    nodes_before: int
    key: str | None = None
    key_mark: Mark = 0
    marks: Marks = field(default_factory=dict)
    braces: bool = False  # a map whose first key is a flow map: `{{`


class _EnoughError(Exception):
    """Nothing below is worth reading."""


class Reader:
    """One pass over the events, with an explicit stack: nesting costs no recursion."""

    def __init__(self, source: Source, text: str) -> None:
        self.source = source
        self.text = text
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.open_anchors: set[str] = set()
        self.nodes = 0
        self.documents = 0

    def read(self, get_event: Callable[[], Any]) -> None:
        try:
            self._read(get_event)
        except (YAMLError, _EnoughError) as error:
            if isinstance(error, YAMLError):
                self.source.problems.append(yaml_errors.problem(error, self.text, self.source.file))
            self._cut()

    def _read(self, get_event: Callable[[], Any]) -> None:  # noqa: C901  # one loop over nine kinds of events, 40 ns each
        stack = self.stack
        while True:
            event = get_event()
            kind = type(event)
            if kind is ScalarEvent:  # nine of ten events: the common forms are read here, without a call
                frame = stack[-1] if stack else None
                if frame is not None and frame.is_map:
                    text = event.value
                    if frame.key is None:
                        if text in frame.value or text == "<<" or event.tag is not None:
                            self._odd_key(frame, event, text)
                        else:
                            frame.key = text
                            mark = event.start_mark
                            frame.key_mark = mark.line << 32 | mark.column
                        continue
                    if (
                        event.tag is None
                        and event.anchor is None
                        and (text[:1] not in _MAYBE_JSON or not event.implicit[0])
                    ):
                        frame.value[frame.key] = text
                        mark = event.start_mark
                        frame.marks[frame.key] = (frame.key_mark, mark.line << 32 | mark.column)
                        frame.key = None
                        self.nodes += 1
                        continue
                self._scalar(event, frame)
            elif kind is MappingStartEvent:
                self._open({}, event)
            elif kind is SequenceStartEvent:
                self._open([], event)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close(event)
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                self.documents += 1
                if self.documents > 1:
                    self._report(
                        _mark(event),
                        "a second document in one file",
                        "yaml-documents",
                        expected="one playbook per file",
                    )
                    return
            elif kind is StreamEndEvent or event is None:
                return
            if self.nodes > MAX_NODES:
                hint = "aliases (`*name`) count as what they stand for" if self.anchors else ""
                self._report(_mark(event), f"more than {MAX_NODES:,} values in one file", "yaml-size", hint=hint)
                self._cut()
                return

    def _report(self, mark: Mark, message: str, rule: str, expected: str = "", hint: str = "") -> None:
        place = place_of_mark(self.source.file, mark)
        self.source.problems.append(Problem(place, message, expected=expected, hint=hint, rule=rule))
        if len(self.source.problems) >= MAX_PROBLEMS:
            raise _EnoughError

    def _scalar(self, event: Any, frame: _Frame | None) -> None:
        value = event.value
        if event.tag is not None:
            value = self._tagged(event)
        elif event.implicit[0] and value[:1] in _MAYBE_JSON:
            value = self._plain(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1)
        self.nodes += 1
        self._put(frame, value, _mark(event))

    def _odd_key(self, frame: _Frame, event: Any, name: str) -> None:
        """A key that is a problem. What follows is read on, under a name that nothing else has, and dropped."""
        mark = _mark(event)
        if name == "<<" and event.implicit[0]:
            self._report(
                mark,
                "merge keys (`<<`) are not part of the language",
                "yaml-merge-key",
                hint="write the keys out, or use `defaults`",
            )
        elif event.tag is not None:
            self._report(mark, f"a tag (`{event.tag}`) on a key", "yaml-tag")
        elif name in frame.value:
            first = frame.marks[name][0]
            self._report(
                mark,
                f"the key `{name}` is given twice",
                "yaml-duplicate-key",
                hint=f"the first one is in line {(first >> 32) + 1}",
            )
        else:
            frame.key, frame.key_mark = name, mark  # a quoted "<<"
            return
        frame.key, frame.key_mark = f"{name}\0{mark}", mark

    def _put(self, frame: _Frame | None, value: Any, mark: Mark) -> None:
        if frame is None:
            self.source.data = value
        elif frame.is_map:
            key = frame.key
            assert key is not None
            frame.key = None
            if "\0" in key:
                return
            frame.value[key] = value
            frame.marks[key] = (frame.key_mark, mark)
        else:
            frame.marks[len(frame.value)] = (mark, mark)
            frame.value.append(value)

    def _open(self, value: Any, event: Any) -> None:
        parent = self.stack[-1] if self.stack else None
        is_key = parent is not None and parent.key is None and parent.is_map
        if is_key and parent is not None:
            parent.braces = parent.flow and event.flow_style and type(value) is dict and not parent.value
            if not parent.braces:
                self._report(_mark(event), "a list or a map cannot be a key", "yaml-key", hint=_QUOTE)
        if event.tag is not None and _KNOWN_TAGS.get(event.tag) != "":
            self._report(
                _mark(event),
                f"an unknown tag `{event.tag}`",
                "yaml-tag",
                expected="plain JSON values; a string goes in quotes",
            )
        if event.anchor is not None:
            self.open_anchors.add(event.anchor)
        self.nodes += 1
        self.stack.append(
            _Frame(
                value,
                type(value) is dict,
                _mark(event),
                event.start_mark.index,
                bool(event.flow_style),
                is_key,
                event.anchor,
                self.nodes,
            )
        )
        if len(self.stack) > MAX_DEPTH:
            self._report(
                _mark(event),
                f"nested more than {MAX_DEPTH} levels deep",
                "yaml-depth",
                expected=f"at most {MAX_DEPTH} levels",
            )
            raise _EnoughError

    def _cut(self) -> None:
        """The text ends in the middle: what was read whole is checked too (all problems at once), maps cut in two are
        not.
        """
        self.source.broken = True
        while self.stack:
            frame = self.stack.pop()
            frame.key = None
            parent = self.stack[-1] if self.stack else None
            self.source.mark(frame.value, frame.start, frame.marks)
            if parent is None:
                self.source.data = frame.value
            elif not frame.is_map and not frame.is_key and not (parent.is_map and parent.key is None):
                self._put(parent, frame.value, frame.start)

    def _close(self, event: Any) -> None:
        frame = self.stack.pop()
        parent = self.stack[-1] if self.stack else None
        value = frame.value
        if frame.anchor is not None:
            self.open_anchors.discard(frame.anchor)
            self.anchors[frame.anchor] = (value, 1 + self.nodes - frame.nodes_before)
        if frame.is_key:
            assert parent is not None
            parent.key, parent.key_mark = f"{{}}\0{frame.index}", frame.start
            return
        if frame.braces:
            self._report(
                frame.start,
                "`{{` opens a map here: the template is not quoted",
                "yaml-quote",
                hint='quote this value: "{{ ... }}"',
            )
            value = self.text[frame.index : event.end_mark.index]  # read on as what was meant
        else:
            self.source.mark(value, frame.start, frame.marks)
        self._put(parent, value, frame.start)

    def _alias(self, event: Any) -> None:
        frame = self.stack[-1] if self.stack else None
        mark = _mark(event)
        value, size = self.anchors.get(event.anchor, (None, 1))
        if event.anchor in self.open_anchors:
            self._report(mark, f"the alias `*{event.anchor}` stands inside what it names", "yaml-alias")
            value, size = None, 1
        elif event.anchor not in self.anchors:
            self._report(
                mark,
                f"an alias `*{event.anchor}` without its anchor",
                "yaml-alias",
                hint=f"{_QUOTE}, or write `&{event.anchor}` before it",
            )
        self.nodes += size
        if frame is not None and frame.key is None and frame.is_map:
            self._report(mark, "an alias cannot be a key", "yaml-key", hint=_QUOTE)
            frame.key, frame.key_mark = f"*\0{mark}", mark
            return
        self._put(frame, value, mark)

    def _plain(self, event: Any) -> Any:
        value: str = event.value
        if value in _CONSTANTS:
            return _CONSTANTS[value]
        found = NUMBER.fullmatch(value)
        if found is None:
            return value
        if len(value) > MAX_NUMBER:
            self._report(_mark(event), f"a number of {len(value)} digits", "yaml-number", hint="quote it if it is text")
            return 0
        if found[1] is None and found[2] is None:
            return int(value)
        number = float(value)
        if number in (float("inf"), float("-inf")):
            self._report(_mark(event), f"the number {value} is too large", "yaml-number", hint="quote it if it is text")
            return 0
        return number

    def _tagged(self, event: Any) -> Any:
        known = _KNOWN_TAGS.get(event.tag)
        if known != "str":
            self._report(
                _mark(event),
                f"an unknown tag `{event.tag}`",
                "yaml-tag",
                expected="plain JSON values; a string goes in quotes",
            )
        return event.value


_QUOTE = "quote this value if it is text"
