"""Expressions: sandboxed Jinja2 over plain data, without surprises. Data is never code; undefined is an error.

In the strings of a playbook only `{{ ... }}` is active. A string that is one expression, white space around it or not,
keeps the native type; any other is text. Plain expressions (`{{ inputs.env }}`, `inputs.n > 3`) are computed without
Jinja; all others compile once, and jinja2 is imported only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from runbook.interpreter.bounds import MAX_TEXT
from runbook.interpreter.frozen import frozen
from runbook.interpreter.plain_expressions import NotPlainError, plain_expression
from runbook.interpreter.unknown import NOTHING, Unknown, likely
from runbook.interpreter.values import joined, kind_of, text_of

Names: TypeAlias = Mapping[str, Any]


class ExpressionError(Exception):
    """An expression has no value. `message`: a sentence that shows it; `path`: what is undefined, if that is why."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class TemplateForm(ValueError):  # noqa: N818  # the form of a template, which is wrong
    """A template is not well formed. `offset` counts characters from its start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@frozen
class Piece:
    """One `{{ ... }}` of a text: the source between the braces, and where that starts."""

    source: str
    offset: int


@frozen
class Analysis:
    """What a template says before it runs. `problem` at `offset` characters from its start, or None.

    `paths`: every dotted path that it names, from the roots of the scope (`("steps", "x", "outputs", "value")`), as far
    as it is written out.
    """

    problem: str | None
    offset: int
    paths: tuple[tuple[str, ...], ...]


def evaluate(source: str, names: Names) -> Any:
    """The value of a bare expression; Unknown when it needs a value that is not known. ExpressionError."""
    return _value(source, names)


def render(data: Any, names: Names, *, lenient: bool = False) -> Any:
    """The author's data with its templates filled in; keys are none. What an expression gave is not looked at again.

    A template that holds an absent optional secret is null. `lenient` (texts of notifications): what cannot be computed
    reads `<unknown: steps.x>`. ExpressionError otherwise.
    """
    if isinstance(data, str):
        return _text(data, names, lenient) if "{{" in data else data
    if isinstance(data, Mapping):
        return {key: render(item, names, lenient=lenient) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [render(item, names, lenient=lenient) for item in data]
    return data


def render_file(text: str, names: Names) -> str | Unknown:
    """A template file: all of Jinja, the same sandbox, values and filters. ExpressionError, with the line."""
    from runbook.interpreter.template_files import render_all

    return render_all(text, names)


def decide(value: Any) -> Literal["yes", "no", "maybe"]:
    """What a condition says. ExpressionError when it is not a boolean."""
    if value is True:
        return "yes"
    if value is False:
        return "no"
    if isinstance(value, Unknown):
        return "maybe"
    shown = f" ({text_of(value)!s:.60})" if isinstance(value, (str, int, float)) else ""
    raise ExpressionError(f"a condition must be true or false, not {kind_of(value)}{shown}")


def analyse(source: str, bare: bool) -> Analysis:
    """Check a template (or bare expression) without running it, and list what it names. Never raises."""
    from runbook.interpreter.syntax import analyse as analyse_syntax

    return analyse_syntax(source, bare)


def secret_misuse(source: str, bare: bool, allowed: bool, inputs: frozenset[str] = frozenset()) -> str | None:
    """Why the secrets in a template may not stand as they do, or None.

    `allowed`: the parameter takes secrets. `inputs`: names of the inputs that are secret, too (`inputs.<name>`).
    """
    if "secrets" not in source and not any(name in source for name in inputs):
        return None
    from runbook.interpreter.syntax import secret_misuse as misuse

    return misuse(source, bare, allowed, inputs)


_BRACKETS: Final = {")": "(", "]": "[", "}": "{"}


def _end(text: str, start: int) -> int:
    """Where the `}}` of the expression that starts at `start` stands. Strings and brackets are stepped over."""
    open_: list[str] = []
    at, length = start, len(text)
    while at < length:
        char = text[at]
        if char in "'\"":
            at += 1
            while at < length and text[at] != char:
                at += 2 if text[at] == "\\" else 1
            if at >= length:
                break
        elif char in "([{":
            open_.append(char)
        elif char == "}" and not open_ and text.startswith("}}", at):
            return at
        elif char in ")]}" and (not open_ or open_.pop() != _BRACKETS[char]):
            raise TemplateForm(f"unexpected {char!r}", at)
        at += 1
    raise TemplateForm("`{{` is never closed by `}}` (write `{{ '{{' }}` for the two braces themselves)", start - 2)


@lru_cache(maxsize=8192)
def pieces(text: str) -> tuple[str | Piece, ...]:
    """A text as its literal parts and its expressions. TemplateForm.

    `{{-` and `-}}` strip the white space beside them, as in Jinja. Blocks (`{%`) and comments (`{#`) are text.
    """
    found: list[str | Piece] = []
    at, strip = 0, False
    while (start := text.find("{{", at)) >= 0:
        literal = text[at:start].lstrip() if strip else text[at:start]
        inner = start + 2
        if text.startswith("-", inner):
            literal, inner = literal.rstrip(), inner + 1
        end = _end(text, inner)
        strip = text[end - 1] == "-"
        source = text[inner : end - 1 if strip else end]
        if not source.strip():
            raise TemplateForm("there is no expression between `{{` and `}}`", start)
        found += [literal, Piece(source, inner)] if literal else [Piece(source, inner)]
        at = end + 2
    literal = text[at:].lstrip() if strip else text[at:]
    return (*found, literal) if literal else tuple(found)


def single(parts: tuple[str | Piece, ...]) -> Piece | None:
    """The one expression that a text consists of, white space around it or not; None for any other text."""
    expressions = [part for part in parts if isinstance(part, Piece)]
    if len(expressions) != 1 or any(isinstance(part, str) and not part.isspace() for part in parts):
        return None
    return expressions[0]


class _Absent:
    """The value of an optional secret that is not there."""


ABSENT: Final = _Absent()


def _text(template: str, names: Names, lenient: bool) -> Any:
    try:
        parts = pieces(template)
    except TemplateForm as form:
        raise ExpressionError(f"{form.message}: {_excerpt(template)}") from None
    alone = single(parts)
    if alone is not None:
        return _piece(alone.source, names, lenient, native=True)
    values: list[Any] = []
    for part in parts:
        value = part if isinstance(part, str) else _piece(part.source, names, lenient, native=False)
        if value is None:
            return None
        values.append(value)
    if sum(len(value) for value in values if isinstance(value, str)) > MAX_TEXT:
        raise ExpressionError(f"the text is longer than {MAX_TEXT} characters: {_excerpt(template)}")
    return joined(values)


def _piece(source: str, names: Names, lenient: bool, *, native: bool) -> Any:
    """One expression's value; None for an absent secret. Inside text: checked to be printable."""
    try:
        value = _raw(source, names)
        if native or isinstance(value, (str, Unknown)):
            return None if value is ABSENT else value
        if value is ABSENT:
            return None
        try:
            return text_of(value)
        except Unknown.Reached as reached:
            return reached.unknown
        except (TypeError, ValueError) as error:
            hint = " (`| default('', true)` gives it a text)" if value is None else ""
            raise ExpressionError(f"{error}{hint}: {_excerpt(source)}") from None
    except ExpressionError as error:
        if not lenient:
            raise
        return f"<unknown: {error.path or _excerpt(source)}>"


def _excerpt(source: str) -> str:
    line = " ".join(source.split())
    return line if len(line) <= 120 else line[:119] + "…"


def _value(source: str, names: Names) -> Any:
    value = _raw(source, names)
    return None if value is ABSENT else value


def _raw(source: str, names: Names) -> Any:
    """The value, Unknown or ABSENT."""
    plain = plain_expression(source)
    try:
        if plain is not None:
            try:
                return plain(names)
            except NotPlainError:
                pass
        from runbook.interpreter.environment import compiled

        return compiled(source)(names)
    except Unknown.Reached as reached:
        return _foreseen(source, names, reached.unknown)


def _foreseen(source: str, names: Names, reached: Unknown) -> Unknown:
    """What an expression comes to that needed an unknown value: unknown, and likely what it is with the likely ones."""
    if reached.likely is NOTHING:
        return Unknown(reached.why)
    try:
        value = _raw(source, likely(names))
    except ExpressionError:
        return Unknown(reached.why)
    return Unknown(reached.why) if value is ABSENT or isinstance(value, Unknown) else Unknown(reached.why, likely=value)
