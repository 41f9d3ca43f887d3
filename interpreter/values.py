"""The values of the language beyond JSON: seals, unknowns, durations, timestamps; their text and their wire form.

On the wire each is a map with one key that begins with `$`; a plain map that looks like one is quoted (`$plain`), so
that data from outside never becomes one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, final

if TYPE_CHECKING:
    from runbook.interpreter.effects import SecretRef

Part: TypeAlias = str | tuple[Any, ...]
"""Text, `("ref", name, kind, where)` (a declared secret) or `("enc", token, label)` (sealed by the host)."""
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""How a number is written in JSON, and so in the language (RFC 8259, section 6)."""


@final
class Sealed(str):
    """Text that holds secrets: reads as masked text, and carries its parts. Only parts are ever revealed, never text.

    It equals only a seal with the same parts; every string operation gives plain masked text.
    """

    __slots__ = ("parts",)
    parts: tuple[Part, ...]

    def __new__(cls, parts: Iterable[Part]) -> Sealed:
        """`parts`: text between is kept as it stands."""
        kept = tuple(part for part in parts if part != "")
        self = super().__new__(cls, "".join(map(_shown, kept)))
        self.parts = kept
        return self

    @classmethod
    def join(cls, pieces: Iterable[str]) -> Sealed:
        """One seal of texts and seals, in order."""
        parts: list[Part] = []
        for piece in pieces:
            if isinstance(piece, Sealed):
                parts.extend(piece.parts)
            else:
                parts.append(piece)
        return cls(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and self.parts == other.parts

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __repr__(self) -> str:
        return f"Sealed({str.__repr__(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Sealed, (self.parts,))


def mask(name: str) -> str:
    """How the secret `name` is printed: `‹secret:name›`."""
    return f"‹secret:{name}›"


def _shown(part: Part) -> str:
    if isinstance(part, str):
        return part
    return mask(part[1] if part[0] == "ref" else part[2])


def secret(ref: SecretRef) -> Sealed:
    """The seal of a declared secret: its coordinates, never its value."""
    return Sealed((("ref", ref.name, ref.kind, ref.where),))


NOTHING: Final = object()
"""No likely value."""


@final
class Unknown:
    """A value that a preview cannot know. Paths into it are unknown too; a decision that needs it raises `Reached`.

    `likely`: what it comes to if all goes as planned (the run's id, how a step ends). Texts show that; nothing decides
    by it.
    """

    __slots__ = ("likely", "shown", "why")
    likely: Any

    class Reached(BaseException):
        """A decision needs an unknown value. No Exception: Jinja's own tests and filters would swallow it."""

        def __init__(self, unknown: Unknown) -> None:
            super().__init__(unknown.why)
            self.unknown = unknown

    def __init__(self, why: str, shown: str = "", likely: Any = NOTHING) -> None:
        """`why`: what it waits for ("the outputs of build"). `shown`: how a text that holds it reads."""
        self.why = why
        self.shown = shown
        self.likely = likely.likely if isinstance(likely, Unknown) else likely

    def __repr__(self) -> str:
        return self.shown or f"<unknown until {self.why}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Unknown, (self.why, self.shown) if self.likely is NOTHING else (self.why, self.shown, self.likely))

    def __getitem__(self, key: Any) -> Unknown:
        try:
            return Unknown(self.why, likely=self.likely[key])
        except (TypeError, LookupError):
            return Unknown(self.why)


def _reach(self: Unknown, *_operands: Any) -> Any:
    raise Unknown.Reached(self)


for _name in (  # noqa: SIM905  # so many words read better as a text
    "str bool len iter reversed eq ne lt le gt ge hash contains call int float index complex round "
    "trunc floor ceil abs neg pos add radd sub rsub mul rmul mod rmod truediv rtruediv floordiv "
    "rfloordiv pow rpow format html bytes"
).split():
    setattr(Unknown, f"__{_name}__", _reach)


def why_unknown(value: Any) -> str | None:
    """What something in a value waits for; None when all of it is known."""
    if isinstance(value, Unknown):
        return str(value.why)
    if isinstance(value, Mapping):
        return next((why for item in value.values() if (why := why_unknown(item)) is not None), None)
    if isinstance(value, (list, tuple)):
        return next((why for item in value if (why := why_unknown(item)) is not None), None)
    return None


def likely(value: Any) -> Any:
    """The value with what is likely in place of what is not known, as far as something is. A map may be copied late."""
    if isinstance(value, Unknown):
        return value if value.likely is NOTHING else value.likely
    if type(value) is dict:
        return {key: likely(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [likely(item) for item in value]
    return _Likely(value) if isinstance(value, Mapping) else value


class _Likely(Mapping[str, Any]):
    """A map, of which only what is asked for is looked through."""

    __slots__ = ("_of",)

    def __init__(self, of: Mapping[str, Any]) -> None:
        self._of = of

    def __getitem__(self, key: str) -> Any:
        return likely(self._of[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


_UNITS: Final[Mapping[str, float]] = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_AMOUNT: Final = r"(\d+(?:\.\d+)?)"
_DURATION: Final = re.compile(
    rf"(?:{_AMOUNT}d)?(?:{_AMOUNT}h)?(?:{_AMOUNT}m(?!s))?(?:{_AMOUNT}s)?(?:{_AMOUNT}ms)?", re.ASCII
)


class _Written(float):
    """A number of seconds that is printed as it was written."""

    __slots__ = ("_written",)
    _written: str | None

    def __new__(cls, seconds: float, written: str | None = None) -> Self:
        """`written` must mean `seconds`; without it one is made, when it is wanted: most are never printed."""
        self = super().__new__(cls, seconds)
        if written is None:
            cls._check(seconds)
        self._written = written
        return self

    @property
    def written(self) -> str:
        """As people read it."""
        if self._written is None:
            self._written = self._spell(float(self))
        return self._written

    @staticmethod
    def _check(seconds: float) -> None:
        raise NotImplementedError

    @staticmethod
    def _spell(seconds: float) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.written

    def __format__(self, spec: str) -> str:
        return format(float(self), spec) if spec else self.written

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.written!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (float(self), self.written))


class Duration(_Written):
    """A length of time: seconds in arithmetic and comparison, printed as it was written, else to the nanosecond."""

    __slots__ = ()

    @staticmethod
    def _check(seconds: float) -> None:
        if not math.isfinite(seconds):
            raise ValueError("a duration is a finite number of seconds")

    @staticmethod
    def _spell(seconds: float) -> str:
        return _spelled(seconds)


def _spelled(seconds: float) -> str:
    sign, rest = ("-", -seconds) if seconds < 0 else ("", seconds)
    if rest != int(rest):
        in_milliseconds = rest < 1 and abs(rest * 1000 - round(rest * 1000)) < 1e-6 and round(rest * 1000) > 0
        return f"{sign}{round(rest * 1000)}ms" if in_milliseconds else f"{sign}{rest:.9f}".rstrip("0").rstrip(".") + "s"
    whole, words = int(rest), ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            words += f"{count}{unit}"
    return sign + (words or "0s")


def parse_duration(text: str) -> Duration:
    """`500ms 30s 5m 1h30m 2d` as seconds. ValueError, naming the units, for anything else (a bare number too)."""
    written = text.strip()
    found = _DURATION.fullmatch(written) if len(written) <= 64 else None
    if not written or found is None or not any(found.groups()):
        raise ValueError(
            f"{text!r} is not a duration: write a number with its unit (ms, s, m, h, d), as in 500ms, 30s, 5m, 1h30m"
        )
    seconds = sum(float(amount) * size for amount, size in zip(found.groups(), _UNITS.values(), strict=True) if amount)
    if found.group(5) and not any(found.groups()[:4]):
        seconds = float(found.group(5)) / 1000  # 500ms is 0.5 exactly
    return Duration(seconds, written)


_FIRST: Final = -62_135_596_800.0  # 0001-01-01T00:00:00Z
_PAST: Final = 253_402_300_799.999_5  # 9999-12-31T23:59:59Z and what is not rounded up to the year 10000
_TIMESTAMP: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)?\s?([Zz]|[+-]\d\d:?\d\d)", re.ASCII
)


class Timestamp(_Written):
    """A moment: Unix seconds in comparison, printed ISO 8601 as it was written, else in UTC. Seconds may be added."""

    __slots__ = ()

    @staticmethod
    def _check(seconds: float) -> None:
        if not _FIRST <= seconds < _PAST:
            raise ValueError("a timestamp lies between the years 1 and 9999")

    @staticmethod
    def _spell(seconds: float) -> str:
        return _iso(seconds)

    def __add__(self, seconds: float) -> Timestamp:
        return Timestamp(float(self) + float(seconds))

    __radd__ = __add__

    def __sub__(self, other: float) -> float:
        """Another moment: the seconds between. Seconds: the moment before."""
        rest = float(self) - float(other)
        return rest if isinstance(other, Timestamp) else Timestamp(rest)


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> Timestamp:
    """ISO 8601 with an offset (`2026-05-01T12:00:00Z`, `2026-05-01 14:00+02:00`), RFC 3339. ValueError otherwise."""
    from datetime import datetime

    found = _TIMESTAMP.fullmatch(text.strip()) if len(text) <= 64 else None
    if found is None:
        hint = "" if re.search(r"(?:[Zz]|[+-]\d\d:?\d\d)\s*$", text) else "; the offset (Z or +02:00) is required"
        raise ValueError(f"{text!r} is not a timestamp: write it as in 2026-05-01T12:00:00Z{hint}")
    day, clock, seconds, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{seconds or ''}{offset.upper()}")
        return Timestamp(moment.timestamp(), text.strip())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a timestamp: {error}") from None


def text_of(value: Any) -> str:
    """How a value reads inside text: booleans `true`, lists and maps compact JSON. ValueError for null and no data."""
    if isinstance(value, str):
        return value if type(value) in (str, Sealed) else str(value)
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        raise ValueError("null cannot stand inside text")
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (Mapping, list, tuple)):
        return json_text(value)
    if isinstance(value, Unknown):
        raise Unknown.Reached(value)
    raise ValueError(f"{kind_of(value)} cannot stand inside text")


def joined(pieces: Iterable[Any]) -> str | Unknown:
    """Values side by side as one text. A seal in it keeps it sealed; an unknown in it makes all of it unknown."""
    texts = [piece if isinstance(piece, Unknown) else text_of(piece) for piece in pieces]
    unknown = next((piece for piece in texts if isinstance(piece, Unknown)), None)
    if unknown is not None:
        return Unknown(unknown.why, "".join(map(_readable, texts)), _likely_text(texts))
    if any(isinstance(piece, Sealed) for piece in texts):
        return Sealed.join(texts)  # type: ignore[arg-type]  # no Unknown is left
    return "".join(texts)  # type: ignore[arg-type]


def _likely_text(pieces: Iterable[str | Unknown]) -> Any:
    """The text if all goes as planned, or NOTHING where that cannot be told, or is no text."""
    known = [likely(piece) for piece in pieces]
    if any(isinstance(piece, Unknown) for piece in known):
        return NOTHING
    try:
        return joined(known)
    except (TypeError, ValueError, Unknown.Reached):
        return NOTHING


def _readable(piece: str | Unknown) -> str:
    if not isinstance(piece, Unknown):
        return str(piece)
    if not piece.shown and piece.likely is not NOTHING:
        try:
            return str(text_of(piece.likely))
        except (TypeError, ValueError, Unknown.Reached):
            pass
    return repr(piece)


def json_text(value: Any, indent: int | None = None) -> str:
    """Compact JSON (RFC 8259) for people and programs: durations and timestamps as written, seals as masks."""
    separators = (",", ":") if indent is None else None
    return json.dumps(_json(value), ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)


def _json(value: Any) -> Any:
    kind = type(value)
    if kind in _EXACT:
        return value
    if kind is Unknown:
        raise Unknown.Reached(value)
    if isinstance(value, str) or kind in (Duration, Timestamp):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if isinstance(value, (int, float)):
        return value
    raise TypeError(f"{kind_of(value)} is not JSON")


_EXACT: Final = frozenset({str, int, bool, float, type(None)})
_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (Sealed, "a secret"),
    (str, "a string"),
    (bool, "a boolean"),
    (Duration, "a duration"),
    (Timestamp, "a timestamp"),
    ((int, float), "a number"),
    (Mapping, "a map"),
    ((list, tuple), "a list"),
    (type(None), "null"),
    (Unknown, "an unknown value"),
)


def kind_of(value: Any) -> str:
    """The kind of a value in the language's words: `a string`, `a map`, `null`."""
    for kinds, words in _KINDS:
        if isinstance(value, kinds):
            return words
    return f"a {type(value).__name__}"


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    if isinstance(key, Unknown):
        raise Unknown.Reached(key)
    if key is None or isinstance(key, (bool, int, float)):
        return "null" if key is None else text_of(key)
    if isinstance(key, str):
        return str.__str__(key)  # a seal as a key: its mask
    raise TypeError(f"{kind_of(key)} cannot be a key")


_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Types that are JSON as they are: most of all data, so they are looked at before anything is called for them."""


def to_wire(value: Any) -> Any:
    """The value as JSON data, which `from_wire` turns back. TypeError for what is no data of the language."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    convert = _TO_WIRE.get(kind)
    if convert is not None:
        return convert(value)
    if isinstance(value, Mapping):
        return _map_to_wire(value)
    if isinstance(value, str):
        raise TypeError(f"{kind.__name__} must be sealed before it is written")
    if isinstance(value, float):
        return _number_to_wire(float(value))
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{kind_of(value)} is no data")


def _number_to_wire(value: float) -> Any:
    return value if math.isfinite(value) else {"$number": repr(float(value))}


def _map_to_wire(value: Mapping[Any, Any]) -> dict[str, Any]:
    plain = {
        key if type(key) is str else _key(key): item if type(item) in _PLAIN else to_wire(item)
        for key, item in value.items()
    }
    if len(plain) != len(value):
        raise TypeError("two keys of a map read the same")
    if len(plain) == 1 and next(iter(plain)).startswith("$"):
        return {"$plain": plain}
    return plain


def _list_to_wire(value: Iterable[Any]) -> list[Any]:
    return [item if type(item) in _PLAIN else to_wire(item) for item in value]


_TO_WIRE: Final[Mapping[type, Callable[[Any], Any]]] = {
    dict: _map_to_wire,
    list: _list_to_wire,
    tuple: _list_to_wire,
    float: _number_to_wire,
    Sealed: lambda value: {"$sealed": [part if isinstance(part, str) else list(part) for part in value.parts]},
    Duration: lambda value: {"$duration": [float(value), value.written]},
    Timestamp: lambda value: {"$timestamp": [float(value), value.written]},
    Unknown: lambda value: {
        "$unknown": [value.why, value.shown, *(() if value.likely is NOTHING else (to_wire(value.likely),))]
    },
}


def from_wire(wire: Any) -> Any:
    """The value that `to_wire` wrote. ValueError for a typed map that this version does not know."""
    kind = type(wire)
    if kind is dict:
        if len(wire) == 1:
            ((key, body),) = wire.items()
            if key.startswith("$"):
                make = _FROM_WIRE.get(key)
                if make is None:
                    raise ValueError(f"{key} is not a typed value of this version")
                return make(body)
        return {key: item if type(item) in _PLAIN else from_wire(item) for key, item in wire.items()}
    if kind is list:
        return [item if type(item) in _PLAIN else from_wire(item) for item in wire]
    return wire


_FROM_WIRE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "$sealed": lambda body: Sealed(part if isinstance(part, str) else tuple(part) for part in body),
    "$duration": lambda body: Duration(*body),
    "$timestamp": lambda body: Timestamp(*body),
    "$unknown": lambda body: Unknown(*body[:2], *map(from_wire, body[2:])),
    "$number": float,
    "$plain": lambda body: {key: from_wire(item) for key, item in body.items()},
}


def canonical(value: Any) -> Any:
    """The value as it is after a trip through the journal: what a resumed run will see."""
    return from_wire(json.loads(json.dumps(to_wire(value))))
