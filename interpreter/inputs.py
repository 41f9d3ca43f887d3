"""Inputs: what was given -> typed values, or every problem with it. Checked once, here; trusted after."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from runbook.interpreter.effects import SecretRef
from runbook.interpreter.errors import Place, Problem
from runbook.interpreter.findings import did_you_mean, kind_of, shown
from runbook.interpreter.model import Input
from runbook.interpreter.times import Duration, Timestamp, parse_duration, parse_timestamp
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import NUMBER, Sealed, secret

WORDS: Mapping[str, str] = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "duration": "a duration (500ms, 30s, 5m, 1h30m)",
    "timestamp": "a moment with its offset (2026-05-01T12:00:00Z)",
    "list": "a list",
    "map": "a map",
    "path": "a path",
}
REFERENCE = "a reference: {env: NAME}, {file: PATH} or {k8s: {namespace, secret, key}}"


class Misfit(Exception):  # noqa: N818  # data that leads to a Problem, no error of the program
    """A value that an input does not take. `where` leads to it inside the value (`[2]`); `{name}` stands for the
    input.
    """

    def __init__(self, message: str, expected: str = "", hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.hint = hint
        self.where = where


def coerce(
    declared: tuple[Input, ...], given: Mapping[str, Any], environ: Mapping[str, str], place: Place
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The typed values of all declared inputs, and every problem with what was given.

    `given`: plain data, seals, or what a preview does not know. `environ` answers `default: {from_env: NAME}`; empty
    for
    sub-playbooks. Durations become times.Duration, timestamps times.Timestamp, secrets seals. `place`: where
    `given` stands.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    known = {one.name: one for one in declared}
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), known) or (f"it takes {', '.join(known)}" if known else "it takes no inputs")
            problems.append(
                Problem(
                    place, f"there is no input `{shown(name)}`", path=f"inputs.{name}", hint=hint, rule="unknown-input"
                )
            )
    for name, one in known.items():
        try:
            values[name] = convert(one, given[name]) if name in given else absent(one, environ)
        except Misfit as misfit:
            path = f"inputs.{name}{misfit.where}"
            message = misfit.message.replace("{name}", f"`{name}{misfit.where}`", 1)
            problems.append(
                Problem(place, message, path=path, expected=misfit.expected, hint=misfit.hint, rule="input")
            )
    return values, tuple(problems)


def from_text(one: Input, text: str) -> Any:
    """The plain value of `-i name=value`: lists, maps and references are read as YAML, numbers and booleans as JSON.

    Raises Misfit. The result still goes through `coerce`.
    """
    if one.secret or one.type in ("list", "map"):
        from runbook.interpreter.source import parse

        source = parse(text, f"-i {one.name}")
        if source.problems:
            raise Misfit(f"{{name}} is no YAML: {source.problems[0].message}", WORDS[one.type], source.problems[0].hint)
        return source.data
    if text == "null" and not one.required and one.default is None:
        return None
    if one.type == "boolean":
        words = {"true": True, "false": False}
        if text.lower() not in words:
            raise Misfit(f"{{name}} cannot be {shown(text)}", WORDS["boolean"])
        return words[text.lower()]
    if one.type in ("integer", "number"):
        found = NUMBER.fullmatch(text.strip())
        if found is None or len(text) > 300:
            raise Misfit(f"{{name}} cannot be {shown(text)}", WORDS[one.type])
        return int(text) if found[1] is None and found[2] is None else float(text)
    return text


def absent(one: Input, environ: Mapping[str, str]) -> Any:
    """The value of an input that was not given: its default, or what the environment says. Raises Misfit."""
    if one.from_env is not None:
        if one.from_env in environ:
            text = environ[one.from_env]
            return convert(one, {"env": one.from_env} if one.secret else from_text(one, text))
        if one.required:
            raise Misfit("{name} is missing", WORDS[one.type], f"set {one.from_env}, or give -i {one.name}=...")
        return None
    if one.required:
        about = f" ({one.description})" if one.description else ""
        example = f"'{one.name}={{env: NAME}}'" if one.secret else f"{one.name}=..."
        raise Misfit("{name} is missing", expected(one) + about, f"give it: -i {example}")
    return None if one.default is None else convert(one, one.default)


def convert(one: Input, value: Any) -> Any:
    """One value as its input's type says. Raises Misfit."""
    if isinstance(value, Unknown):
        return value
    if value is None and not one.required and one.default is None:
        return None
    if one.secret:
        return _reference(one, value)
    if isinstance(value, Sealed):
        raise Misfit("{name} takes no secret", expected(one), "declare the input with `secret: true`")
    typed = _CONVERSIONS[one.type](one, value)
    if one.enum and not any(type(typed) is type(option) and typed == option for option in _options(one)):
        raise Misfit(f"{{name}} cannot be {shown(value)}", expected(one), did_you_mean(str(value), map(str, one.enum)))
    return typed


def expected(one: Input) -> str:
    """What an input takes, in words."""
    if one.secret:
        return REFERENCE
    if one.enum:
        return "one of " + ", ".join(map(shown, one.enum))
    words = WORDS[one.type]
    if one.minimum is not None:
        words += f", at least {one.minimum:g}"
    if one.maximum is not None:
        words += f", at most {one.maximum:g}"
    return words + (f" that matches {one.pattern}" if one.pattern else "")


def _options(one: Input) -> list[Any]:
    return [_CONVERSIONS[one.type](one, option) for option in one.enum]


def _reference(one: Input, value: Any) -> Sealed:
    if isinstance(value, Sealed):
        return value
    if isinstance(value, dict) and len(value) == 1:
        kind, where = next(iter(value.items()))
        if kind in ("env", "file") and isinstance(where, str) and where:
            return secret(SecretRef(one.name, kind, where))
        if kind == "k8s" and isinstance(where, dict) and _is_key_of_secret(where):
            return secret(SecretRef(one.name, "k8s", dict(where)))
    raise Misfit("{name} takes a reference to a secret, never its value", REFERENCE)


def _is_key_of_secret(where: Mapping[Any, Any]) -> bool:
    needed = {"namespace", "secret", "key"}
    return needed <= where.keys() <= needed | {"context"} and all(isinstance(part, str) for part in where.values())


def _wrong(one: Input, value: Any, hint: str = "") -> Misfit:
    what = kind_of(value) if isinstance(value, list | dict) or value is None else shown(value)
    return Misfit(f"{{name}} cannot be {what}", expected(one), hint)


def _text(one: Input, value: Any) -> str:
    if not isinstance(value, str):
        quoted = "" if isinstance(value, list | dict) or value is None else f'quote it: "{shown(value)}"'
        raise _wrong(one, value, quoted)
    if one.pattern is not None:
        from runbook.interpreter.patterns import checked

        try:
            fits = checked(one.pattern, len(value)).fullmatch(value) is not None
        except ValueError as error:  # it is too long for this pattern
            raise _wrong(one, value, str(error)) from None
        if not fits:
            raise _wrong(one, value)
    return str(value)


def _path(one: Input, value: Any) -> str:
    text = _text(one, value)
    if not text or "\0" in text:
        raise _wrong(one, value)
    return text


def _integer(one: Input, value: Any) -> int:
    number = int(value) if type(value) is float and value.is_integer() else value
    if type(number) is not int:
        raise _wrong(one, value, "without the quotes" if isinstance(value, str) and NUMBER.fullmatch(value) else "")
    return int(_bounded(one, number))


def _number(one: Input, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(one, value, "without the quotes" if isinstance(value, str) and NUMBER.fullmatch(value) else "")
    return _bounded(one, value if isinstance(value, int) else float(value))


def _bounded(one: Input, value: int | float) -> int | float:
    if (one.minimum is not None and value < one.minimum) or (one.maximum is not None and value > one.maximum):
        raise _wrong(one, value)
    return value


def _boolean(one: Input, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(
            one,
            value,
            {"yes": "write true", "on": "write true", "no": "write false", "off": "write false"}.get(
                str(value).lower(), ""
            ),
        )
    return value


def _duration(one: Input, value: Any) -> Duration:
    if isinstance(value, Duration):
        return value
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            pass
    written = value if isinstance(value, str) else "" if isinstance(value, bool) else shown(value)
    bare = isinstance(value, int | float | str) and NUMBER.fullmatch(written)
    raise _wrong(one, value, f"a bare number has no unit: write {shown(value)}s or {shown(value)}m" if bare else "")


def _timestamp(one: Input, value: Any) -> Timestamp:
    if isinstance(value, Timestamp):
        return value
    if not isinstance(value, str):
        raise _wrong(one, value)
    try:
        return parse_timestamp(value)
    except ValueError as error:
        _, _, why = str(error).partition(";")
        raise _wrong(one, value, why.strip()) from None


def _list(one: Input, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _wrong(one, value, "a list of one: [...]" if isinstance(value, str) else "")
    if one.items is None:
        return list(value)
    out = []
    for index, item in enumerate(value):
        try:
            out.append(convert(one.items, item))
        except Misfit as misfit:
            raise Misfit(misfit.message, misfit.expected, misfit.hint, f"[{index}]{misfit.where}") from None
    return out


def _map(one: Input, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(one, value)
    if not all(isinstance(key, str) for key in value):
        raise Misfit("{name} has a key that is no text", WORDS["map"])
    return dict(value)


_CONVERSIONS: Mapping[str, Callable[[Input, Any], Any]] = {
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "duration": _duration,
    "timestamp": _timestamp,
    "list": _list,
    "map": _map,
    "path": _path,
}
