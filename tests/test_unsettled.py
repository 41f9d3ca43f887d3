"""The words for what is found where looking does not settle an intent: what is there, what was, what was expected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.contract import Sensitive
from runbook.runner.unsettled import told


def plain(value: Any) -> Any:
    """A masking that knows what is sensitive, and one secret."""
    if isinstance(value, Sensitive):
        return "‹secret:sensitive›"
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value.replace("hunter2", "‹secret:token›") if isinstance(value, str) else value


POD: dict[str, Any] = {"containers": [{"name": "app", "image": "app:2"}, {"name": "log", "image": "log:1"}]}


def with_image(image: str) -> dict[str, Any]:
    return {"containers": [{"name": "app", "image": image}, POD["containers"][1]]}


@pytest.mark.parametrize(
    ("before", "after", "now", "said"),
    [
        ({"k8s:a": 2}, {"k8s:a": 4}, {"k8s:a": 3}, "a is 3, neither 2 as before nor 4 as it was to become"),
        ({"a": None}, {"a": "x"}, {"a": ""}, 'a is "", neither nothing as before nor x as it was to become'),
        (
            {"web": POD},
            {"web": with_image("app:1")},
            {"web": with_image("app:9")},
            "web.containers.name=app.image is app:9, neither app:2 as before nor app:1 as it was to become",
        ),
        (
            {"w": {"a": 1, "b": 1, "c": 1}},
            {"w": {"a": 2, "b": 1, "c": 2}},
            {"w": {"a": 1, "b": 3, "c": 2}},
            "w.a is 1 as before, not 2 as it was to become; w.b is 3, not 1 as before",
        ),
        (
            {"a": 1, "b": 1, "c": 1, "same": 1},
            {"a": 2, "b": 2, "c": 2, "same": 1},
            {"a": 3, "b": 2, "c": 1, "same": 1},
            "a is 3, neither 1 as before nor 2 as it was to become; as it was to become: b; as before: c",
        ),
        ({"a": 1}, {"a": 2}, {}, "a is nothing, neither 1 as before nor 2 as it was to become"),
    ],
    ids=["value", "empty", "leaf of a list", "leaves", "places", "gone"],
)
def test_it_says_what_is_there_what_was_and_what_was_expected(
    before: dict[str, Any], after: dict[str, Any], now: dict[str, Any], said: str
) -> None:
    assert told("toy.set", before, after, now, plain) == f"nobody knows whether toy.set happened: {said}"


def test_secrets_are_not_told() -> None:
    sides = ({"s": Sensitive("old-old")}, {"s": Sensitive("new-new")}, {"s": Sensitive("third-third")})
    said = told("k8s.patch", *sides, plain)
    assert said.endswith("s is not as expected (what it holds is not shown)")
    assert not any(word in said for word in ("old-old", "new-new", "third-third"))
    assert "hunter2" not in told("toy.set", {"a": "x"}, {"a": "y"}, {"a": "hunter2"}, plain)


STATES = st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.integers(0, 3) | st.text(max_size=3), max_size=8)


@given(STATES, STATES, STATES)
def test_it_is_one_line_of_bounded_length(before: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> None:
    said = told("toy.set", before, after, now, plain)
    assert "\n" not in said
    assert said.count("neither") <= 4
