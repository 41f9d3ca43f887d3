"""What a check says is wrong, and the words for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeAlias

from runbook.interpreter.frozen import frozen

MANY = 12  # names that an error lists although it has a better hint


@frozen
class Finding:
    """Something wrong with the node at `path`, seen from the value that was checked. `{name}` in `message` is that
    node.
    """

    message: str
    expected: str = ""
    hint: str = ""
    path: tuple[str | int, ...] = ()
    of_key: bool = False  # the place is the key, not the value
    rule: str = "form"

    def under(self, key: str | int) -> Finding:
        """The same, seen from one level above."""
        return replace(self, path=(key, *self.path))


Findings: TypeAlias = Sequence[Finding]
Check: TypeAlias = Callable[[Any], Findings]
FINE: Findings = ()


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a map"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`did you mean ...?` for the nearest of `words`, or ''."""
    size = len(word)
    names = [one for one in islice(words, 2_000) if abs(len(one) - size) < 12 and len(one) < 80]
    by_fold = {one.lower().replace("-", "_"): one for one in names}
    begun = [one for one in names if size > 2 and one.startswith(word)]
    exact = begun[0] if len(begun) == 1 else by_fold.get(word.lower().replace("-", "_"))
    import difflib

    near = [exact] if exact else difflib.get_close_matches(word[:100], names[:200], n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def shown(value: Any) -> str:
    """A value as an error names it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_key(key: str, known: Iterable[str]) -> Finding:
    """A key that nothing reads."""
    names = list(known)
    hint = did_you_mean(key, names) or ("a space belongs behind the `:`" if ":" in key else "")
    expected = f"one of {', '.join(names)}" if names else "no keys here"
    expected = "" if hint and len(names) > MANY else expected
    return Finding(
        f"unknown key `{shown(key)}`", expected=expected, hint=hint, path=(key,), of_key=True, rule="unknown-key"
    )
