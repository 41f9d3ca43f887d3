"""YAML text -> plain data, with the place of every node. Events come from libyaml (ruamel.yaml.clib), so 5,000 steps
take 0.2 s.

The scalar rules are JSON's (docs/language: Expressions): `true`, `false`, `null` and numbers are themselves, every
other
plain scalar is a string. Whatever else YAML offers beyond JSON with comments is a problem with its place, never an
exception: duplicate keys, merge keys, tags, bombs of aliases, several documents, tabs, control characters, extreme
nesting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from _ruamel_yaml import CParser
from ruamel.yaml.events import ScalarEvent

from runbook.interpreter import yaml_errors
from runbook.interpreter.errors import Place, Problem
from runbook.interpreter.places import Source
from runbook.interpreter.yaml_reader import MAX_NODES, Reader

MAX_CHARACTERS = 8_000_000

# YAML 1.2 and JSON people write {url: https://x?y=1}; libyaml's 1.1 stops at such a `:` or `?` inside braces. A text
# that
# breaks is read once more with these characters, inside words, under other names: same lengths, so places stay.
_INSIDE = re.compile(r"""(?<=[^\s"'\[\]{},])(?::(?=[^\s,\[\]{}"'])|\?)""")
_COLON, _QUESTION = "\ue03a", "\ue03f"


def parse(text: str, file: str) -> Source:
    """Read `text`. Never raises; what is wrong is in `problems`, and `data` holds whatever could be understood."""
    source = Source(file, text)
    if len(text) > MAX_CHARACTERS:
        source.problems.append(
            Problem(
                Place(file),
                "the file is too large",
                expected=f"at most {MAX_CHARACTERS:,} characters",
                rule="yaml-size",
            )
        )
        return source
    if text.startswith("\ufeff"):
        source.problems.append(
            Problem(
                Place(file, 1, 1),
                "the file begins with a byte order mark (BOM)",
                hint="save it as UTF-8 without BOM",
                rule="yaml-bom",
            )
        )
        text = text[1:]
    _read_all(source, text)
    if source.broken and _INSIDE.search(text) and _COLON not in text and _QUESTION not in text:
        again = Source(file, source.text, problems=[one for one in source.problems if one.rule == "yaml-bom"])
        _read_all(again, _INSIDE.sub(lambda found: _COLON if found[0] == ":" else _QUESTION, text), _restoring)
        if not again.broken or _furthest(again) > _furthest(source):
            source = again
    source.problems[:] = {(one.place, one.rule): one for one in source.problems}.values()
    return source


def _furthest(source: Source) -> Place:
    return max(one.place for one in source.problems)


Events: TypeAlias = Callable[[], Any]


def _read_all(source: Source, text: str, changed: Callable[[Events], Events] | None = None) -> None:
    try:
        parser = CParser(text)
    except UnicodeEncodeError as error:
        place = yaml_errors.place_at(text, error.start, source.file)
        source.problems.append(
            Problem(place, "a character that is no valid Unicode", expected="UTF-8", rule="yaml-encoding")
        )
        return
    Reader(source, text).read(parser.get_event if changed is None else changed(parser.get_event))


def _restoring(get_event: Events) -> Events:
    """The same events with the two characters back in their texts."""

    def restored() -> Any:
        event = get_event()
        if type(event) is ScalarEvent:
            event.value = event.value.replace(_COLON, ":").replace(_QUESTION, "?")
            if event.tag is not None:
                event.tag = event.tag.replace(_COLON, ":")
        return event

    return restored


__all__ = ["MAX_NODES", "Source", "parse"]
