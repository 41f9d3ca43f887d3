"""Lengths of time and moments: numbers in arithmetic, printed as they were written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, Self

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
