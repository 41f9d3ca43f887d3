"""`@frozen` against the dataclass that it stands for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.interpreter.frozen import frozen


@frozen
class Ours:
    """One."""

    a: int
    b: str = "x"
    c: tuple[int, ...] = ()
    d: Mapping[str, int] = field(default_factory=dict, compare=False)
    e: int = field(default=0, repr=False)


@dataclass(frozen=True, slots=True)
class Theirs:
    """One."""

    a: int
    b: str = "x"
    c: tuple[int, ...] = ()
    d: Mapping[str, int] = field(default_factory=dict, compare=False)
    e: int = field(default=0, repr=False)


VALUES = st.fixed_dictionaries(
    {"a": st.integers(0, 2)},
    optional={
        "b": st.sampled_from("xyz"),
        "c": st.lists(st.integers(0, 1), max_size=2).map(tuple),
        "d": st.dictionaries(st.sampled_from("pq"), st.integers(0, 1)),
        "e": st.integers(0, 1),
    },
)


@given(VALUES, VALUES)
def test_it_compares_hashes_shows_and_copies_like_one(one: dict[str, Any], other: dict[str, Any]) -> None:
    mine, same = Ours(**one), Theirs(**one)
    assert (mine == Ours(**other)) == (same == Theirs(**other))
    assert (hash(mine) == hash(Ours(**other))) or mine != Ours(**other)
    assert repr(mine) == repr(same).replace("Theirs", "Ours")
    assert asdict(mine) == asdict(same)
    assert [known.name for known in fields(mine)] == [known.name for known in fields(same)]
    assert replace(mine, a=9) == Ours(**{**one, "a": 9})
    for again in (copy.copy(mine), copy.deepcopy(mine), pickle.loads(pickle.dumps(mine, 5))):
        assert again == mine
        assert again.d == mine.d


def test_it_has_slots_and_no_room_for_other_names() -> None:
    with pytest.raises(AttributeError):
        Ours(1).other = 2  # type: ignore[attr-defined]
    stranger: object = Theirs(1)
    assert Ours(1) != stranger
    with pytest.raises(TypeError):
        Ours()  # type: ignore[call-arg]


def test_methods_that_a_class_writes_itself_stay() -> None:
    @frozen(kw_only=True)
    class Own:
        """Shown its own way."""

        a: int = 0

        def __repr__(self) -> str:
            return "own"

    assert repr(Own(a=1)) == "own"
    with pytest.raises(TypeError):
        Own(1)  # type: ignore[call-arg]
