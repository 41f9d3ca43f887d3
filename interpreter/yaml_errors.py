"""What libyaml says about broken YAML -> a sentence that helps, at the place that helps."""

from __future__ import annotations

import re
from typing import Any

from runbook.interpreter.errors import Place, Problem

LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # libyaml's line breaks (YAML 1.1, section 4.2)

_UNQUOTED_TEMPLATE = re.compile(r"(?:^|[:\-,\[{]\s+|\[)(?P<at>\{\{)")
_UNQUOTED_LIST = re.compile(r"(?:^|[:\-]\s+)(?P<at>\[[^\]]*\]\s*[^\s#,\]}])")
_QUOTED_THEN_MORE = re.compile(r"""[:\-]\s+(?P<at>"[^"]*"|'[^']*')\s*[^\s#,\]}:]""")

# libyaml's problem -> (our sentence, hint, whether the context's place says more than the problem's)
_SENTENCES: tuple[tuple[str, str, str, bool], ...] = (
    (
        "mapping values are not allowed",
        "a second `: ` in one value, or a line that is indented too far",
        "quote this value if `: ` belongs to it",
        False,
    ),
    ("could not find expected ':'", "this line is neither `key: value` nor `- item`", "", True),
    (
        "found unexpected end of stream",
        "a quoted text that is never closed",
        "end it with the quote that it began with",
        True,
    ),
    (
        "found unexpected document indicator",
        "a quoted text that is never closed",
        "end it with the quote that it began with",
        True,
    ),
    (
        "found unknown escape character",
        "an unknown escape in double quotes",
        "use single quotes, or write `\\\\` for a backslash",
        False,
    ),
    (
        "did not find expected hexdecimal number",
        "an incomplete escape in double quotes",
        "use single quotes, or write `\\\\` for a backslash",
        False,
    ),
    ("did not find expected ',' or '}'", "a `{` that is never closed, or a `,` missing in it", "", True),
    ("did not find expected ',' or ']'", "a `[` that is never closed, or a `,` missing in it", "", True),
    (
        "did not find expected '-' indicator",
        "a list ends here without `- `",
        "indent the line, or begin it with `- `",
        False,
    ),
    ("did not find expected key", "this does not fit the lines above", "check the indentation and the quotes", False),
    (
        "block sequence entries are not allowed",
        "a `- ` where a list cannot begin",
        "begin the list on its own line, or quote this value",
        False,
    ),
    ("block mapping", "this does not fit the lines above", "check the indentation and the quotes", False),
    ("found a tab character", "a tab where spaces are needed", "indent with spaces", False),
    ("did not find expected comment or line break", "text behind `|` or `>`", "quote this value if it is one", False),
    ("found undefined tag handle", "an unknown tag", "quote this value if `!` belongs to it", False),
    ("while scanning a directive", "a `%` at the beginning of a line", "quote this value if it is text", False),
    ("found duplicate anchor", "the same anchor twice", "", False),
    ("alias", "an incomplete alias (`*name`)", "quote this value if `*` belongs to it", True),
    ("anchor", "an incomplete anchor (`&name`)", "quote this value if `&` belongs to it", True),
)


def place_at(text: str, index: int, file: str) -> Place:
    """The place of the `index`-th character."""
    before = text[:index]
    lines = LINE_END.split(before)
    return Place(file, len(lines), len(lines[-1]) + 1)


def problem(error: Any, text: str, file: str) -> Problem:
    """One problem for what libyaml raised: a ReaderError (a character), or a marked error with context and problem."""
    character = getattr(error, "character", None)
    if character is not None:
        return _bad_character(error, text, file)
    problem_mark = error.problem_mark or error.context_mark
    lines = LINE_END.split(text)
    said = f"{error.context or ''}; {error.problem or ''}"
    message, hint, at_context = _sentence(said, problem_mark, lines)
    mark = error.context_mark if at_context and error.context_mark is not None else problem_mark
    place = _within(Place(file, mark.line + 1, mark.column + 1), lines)
    better = _unquoted(place, lines) or _unquoted(
        _within(Place(file, problem_mark.line + 1, problem_mark.column + 1), lines), lines
    )
    if better is not None:
        return better
    return Problem(place, message, hint=hint, rule="yaml")


def _sentence(said: str, mark: Any, lines: list[str]) -> tuple[str, str, bool]:
    if "cannot start any token" in said:
        line = lines[mark.line] if mark.line < len(lines) else ""
        found = line[mark.column : mark.column + 1]
        if found == "\t":
            return "a tab where spaces are needed", "indent with spaces", False
        return f"a value cannot begin with `{found}`", "quote this value", False
    for part, message, hint, at_context in _SENTENCES:
        if part in said:
            return message, hint, at_context
    return said.strip("; "), "", False


def _unquoted(place: Place, lines: list[str]) -> Problem | None:
    """A template or a bracket that opened a map or a list, found in the line where libyaml stumbled."""
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    for pattern, message, hint in (
        (_UNQUOTED_TEMPLATE, "`{{` opens a map here: the template is not quoted", 'quote this value: "{{ ... }}"'),
        (_UNQUOTED_LIST, "`[` opens a list here, and text follows it", "quote this value"),
        (_QUOTED_THEN_MORE, "text behind a closing quote", "quote this value as a whole"),
    ):
        found = pattern.search(line)
        if found is not None:
            return Problem(Place(place.file, place.line, found.start("at") + 1), message, hint=hint, rule="yaml-quote")
    return None


def _within(place: Place, lines: list[str]) -> Place:
    """The last line that has text when the place is behind the end."""
    line = min(place.line, len(lines))
    while line > 1 and (line == len(lines) or line != place.line) and not lines[line - 1].strip():
        line -= 1
    if line == place.line:
        return place
    return Place(place.file, line, len(lines[line - 1].rstrip()) + 1)


def _bad_character(error: Any, text: str, file: str) -> Problem:
    code = int(error.character)
    index = text.find(chr(code)) if 0 < code < 0x110000 else text.find("\0")
    place = place_at(text, index, file) if index >= 0 else Place(file)
    what = "a NUL byte" if code == 0 else f"a control character (U+{code:04X})"
    return Problem(
        place,
        what,
        expected="printable text",
        hint='write it as an escape in double quotes, such as "\\u0007"',
        rule="yaml-encoding",
    )
