"""The values of the language beyond JSON: seals here, times and unknowns; the text of all and their wire form.

On the wire each is a map with one key that begins with `$`; a plain map that looks like one is quoted (`$plain`), so
that data from outside never becomes one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from runbook.interpreter.times import Duration, Timestamp
from runbook.interpreter.unknown import NOTHING, Unknown, likely

if TYPE_CHECKING:
    from runbook.interpreter.effects import SecretRef

Part: TypeAlias = str | tuple[Any, ...]
"""Text, `("ref", name, kind, where)` (a declared secret) or `("enc", token, label, ...)` (sealed by the host)."""
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
