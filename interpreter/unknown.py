"""What a preview does not know. A decision that needs it ends the evaluation: it is neither yes nor no."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, final

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
