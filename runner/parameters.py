"""Rendered `with` data -> the typed parameters of an action. Checked once, here; trusted after."""

from __future__ import annotations

import dataclasses
import functools
import posixpath
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from runbook.contract import Action, Duration, PermanentError, Sensitive
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import kind_of, text_of

DURATION = r"^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$"
"""How a duration is written: `500ms 30s 5m 1h30m` (docs/language: Expressions)."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _MismatchError(Exception):
    """A value that is not what the annotation says; `where` leads to it from the parameter."""

    def __init__(self, expected: str, got: Any, where: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = got
        self.where = where

    def under(self, part: str) -> _MismatchError:
        return _MismatchError(self.expected, self.got, part + self.where)


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One field of an action's parameters as parsing needs it. `wire` is its name in a playbook."""

    wire: str
    field: dataclasses.Field[Any]
    annotation: Any
    required: bool

    @property
    def doc(self) -> Mapping[str, Any]:
        """What `contract.param` said about it."""
        return self.field.metadata


@functools.cache
def parameters(args: type) -> tuple[Parameter, ...]:
    """The fields of a parameters' dataclass, in order, with their annotations resolved."""
    hints = typing.get_type_hints(args)
    return tuple(
        Parameter(
            wire=item.metadata.get("wire") or item.name,
            field=item,
            annotation=hints[item.name],
            required=item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(args)
        if item.init
    )


def parse(action: type[Action[Any]], given: Mapping[str, Any], base: str = "") -> Any:
    """The parameters of one call.

    `given`: plain data, secrets revealed. `base`: the folder that relative paths are relative to ('' = left so).
    What is not known yet (previews) stays an Unknown wherever it stands.
    Raises PermanentError that names every wrong parameter; a secret's value is never in it.
    """
    return _record(action.args, given, base, f"{action.name or action.__name__} has no parameter", "")


def _record(args: type, given: Mapping[str, Any], base: str, unknown: str, prefix: str) -> Any:
    known = {item.wire: item for item in parameters(args)}
    wrong = [f"{unknown} {prefix}{name}" for name in given if name not in known]
    found: dict[str, Any] = {}
    for wire, item in known.items():
        if wire not in given:
            if item.required:
                wrong.append(f"{prefix}{wire}: required, and not given")
            elif base and isinstance(item.field.default, Path):
                found[item.field.name] = _path(item.field.default, base)
            continue
        value = given[wire]
        if value is None and not item.required and not _takes_none(item.annotation):
            continue  # an absent optional secret or output renders as null: the default stands
        if item.doc.get("secret"):
            value = _without_absent(item.annotation, value)
        try:
            found[item.field.name] = _bounded(
                item, _convert(item.annotation, value, base if item.doc.get("path") else "")
            )
        except _MismatchError as problem:
            got = kind_of(problem.got) if item.doc.get("secret") else _shown(problem.got)
            wrong.append(f"{prefix}{wire}{problem.where}: expected {problem.expected}, got {got}")
    if wrong:
        raise PermanentError("; ".join(wrong))
    return args(**found)


def _bounded(item: Parameter, value: Any) -> Any:
    low, high, pattern = item.doc.get("minimum"), item.doc.get("maximum"), item.doc.get("pattern")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if low is not None and value < low:
            raise _MismatchError(f"at least {_number(low)}", value)
        if high is not None and value > high:
            raise _MismatchError(f"at most {_number(high)}", value)
    if pattern is not None and isinstance(value, str) and not re.search(pattern, value):
        raise _MismatchError(f"text that matches {pattern}", value)
    return value


def _without_absent(annotation: Any, value: Any) -> Any:
    """A map of texts without the keys whose secrets are optional and not there: variables, headers are left out."""
    kinds = [annotation, *typing.get_args(annotation)]
    of_texts = any(typing.get_origin(kind) is dict and typing.get_args(kind)[1] is str for kind in kinds)
    if not of_texts or not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if item is not None}


def _takes_none(annotation: Any) -> bool:
    return annotation in (Any, None, type(None)) or type(None) in typing.get_args(annotation)


def _convert(annotation: Any, value: Any, base: str) -> Any:
    if annotation is Any or isinstance(value, Unknown):
        return value
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _either(typing.get_args(annotation), value, base)
    if origin is Literal:
        choices = typing.get_args(annotation)
        if any(value == choice and type(value) is type(choice) for choice in choices) or (
            isinstance(value, str) and str(value) in choices
        ):
            return choices[choices.index(value)]
        raise _MismatchError("one of " + ", ".join(map(str, choices)), value)
    if origin in (list, tuple):
        return _sequence(origin, typing.get_args(annotation)[0], value, base)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, Any]):
        return _mapping(typing.get_args(annotation)[1], value, base)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if not isinstance(value, Mapping):
            raise _MismatchError("a map", value)
        return _record(annotation, value, base, "there is no", "")
    plain = _SCALARS.get(annotation)
    if plain is None:
        raise TypeError(f"an action's parameter cannot be annotated as {annotation!r}")
    return plain(value) if annotation is not Path else _path(value, base)


def _either(options: tuple[Any, ...], value: Any, base: str) -> Any:
    if value is None and type(None) in options:
        return None
    expected: list[str] = []
    deeper: _MismatchError | None = None
    kinds = [option for option in options if option is not type(None)]
    for option in kinds:
        if option is str and len(kinds) > 1 and not isinstance(value, str):
            expected.append("text")  # a number may be meant as something else here
            continue
        try:
            return _convert(option, value, base)
        except _MismatchError as problem:
            if problem.where:
                deeper = problem  # the shape was right and a part of it was not: the more useful sentence
            expected.append(problem.expected)
    raise deeper or _MismatchError(" or ".join(dict.fromkeys(expected)), value)


def _sequence(origin: Any, element: Any, value: Any, base: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _MismatchError("a list", value)
    out = []
    for index, item in enumerate(value):
        try:
            out.append(_convert(element, item, base))
        except _MismatchError as problem:
            raise problem.under(f"[{index}]") from None
    return origin(out)


def _mapping(element: Any, value: Any, base: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _MismatchError("a map", value)
    out: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _MismatchError("a map with text keys", key)
        try:
            out[key] = _convert(element, item, base)
        except _MismatchError as problem:
            raise problem.under(f".{key}") from None
    return out


def _text(value: Any) -> str:
    if isinstance(value, Sensitive):
        return value
    if isinstance(value, str):
        return value if type(value) is str else str(value)
    if isinstance(value, bool | int | float):
        return text_of(value)  # computed (`{{ inputs.port }}`): as in text. A literal number is refused by the schema
    raise _MismatchError("text", value)


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    raise _MismatchError("an integer", value)


def _float(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _MismatchError("a number", value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _MismatchError("true or false", value)


def _duration(value: Any) -> Duration:
    if isinstance(value, str) and re.fullmatch(DURATION, value):
        pieces = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value)
        return Duration(sum(float(amount) * _UNITS[unit] for amount, unit in pieces))
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Duration(value)  # computed (`{{ inputs.wait * 2 }}`): seconds. A literal number is refused by the schema
    raise _MismatchError("a duration (500ms, 30s, 5m, 1h30m)", value)


def _path(value: Any, base: str) -> Path:
    if not isinstance(value, str | Path) or str(value) == "":
        raise _MismatchError("a path", value)
    return Path(posixpath.join(base, str(value))) if base else Path(str(value))


def _nothing(value: Any) -> None:
    if value is not None:
        raise _MismatchError("null", value)


_SCALARS: Mapping[Any, Callable[[Any], Any]] = types.MappingProxyType(
    {
        str: _text,
        int: _integer,
        float: _float,
        bool: _boolean,
        Duration: _duration,
        Path: lambda value: _path(value, ""),
        dict: lambda value: _mapping(Any, value, ""),
        list: lambda value: _sequence(list, Any, value, ""),
        type(None): _nothing,
    }
)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _shown(value: Any) -> str:
    """The value as an error shows it: short, with its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sensitive):
        return "sensitive text"
    if isinstance(value, str):
        return f"the text {value[:80]!r}" + ("…" if len(value) > 80 else "")
    if isinstance(value, int):
        return f"the integer {value}"
    return f"the number {value}" if isinstance(value, float) else kind_of(value)
