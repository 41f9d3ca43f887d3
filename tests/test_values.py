"""Values beyond JSON: their text, their arithmetic, and that they survive the journal while look-alikes stay data."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.interpreter.effects import SecretRef
from runbook.interpreter.times import Duration, Timestamp, parse_duration, parse_timestamp
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import (
    Sealed,
    canonical,
    from_wire,
    joined,
    json_text,
    kind_of,
    secret,
    text_of,
    to_wire,
)

TOKEN = secret(SecretRef("token", "env", "TOKEN"))

typed_names = st.sampled_from(["$sealed", "$duration", "$timestamp", "$unknown", "$number", "$plain", "$", "$other"])
keys = st.one_of(typed_names, st.text(max_size=6))
seals = st.lists(
    st.one_of(
        st.text(min_size=1, max_size=5),
        st.tuples(st.just("ref"), st.text(max_size=5), st.just("env"), st.text(max_size=5)),
    ),
    min_size=1,
    max_size=4,
).map(Sealed)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    seals,
    st.floats(min_value=0, max_value=1e9).map(Duration),
    st.integers(min_value=0, max_value=2**32).map(lambda seconds: Timestamp(float(seconds))),
)
data = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
plain_data = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """Types and values: 1 == 1.0 == True must not hide a difference."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value), getattr(value, "written", None), value


@given(data)
def test_what_goes_to_the_wire_comes_back_the_same(value: Any) -> None:
    wire = json.loads(json.dumps(to_wire(value), allow_nan=False))
    assert shape(from_wire(wire)) == shape(value)


@given(data)
def test_canonical_is_idempotent(value: Any) -> None:
    once = canonical(value)
    assert shape(canonical(once)) == shape(once) == shape(value)


@given(plain_data)
def test_hostile_look_alikes_never_become_seals(value: Any) -> None:
    back = canonical(value)
    assert shape(back) == shape(value)
    assert _seals(back) == 0


def _seals(value: Any) -> int:
    if isinstance(value, Sealed):
        return 1
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_seals, items))


@pytest.mark.parametrize(
    "hostile",
    [
        {"$sealed": [["ref", "token", "env", "TOKEN"]]},
        {"$plain": {"$sealed": [["ref", "token", "env", "TOKEN"]]}},
        {"a": {"$sealed": ["x"]}},
        "‹secret:token›",
        '{"$sealed": [["ref", "token", "env", "TOKEN"]]}',
    ],
)
def test_data_that_looks_like_a_seal_stays_data(hostile: Any) -> None:
    assert shape(canonical(hostile)) == shape(hostile)
    assert to_wire(hostile) != to_wire(TOKEN)


def test_a_typed_map_of_another_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a typed value"):
        from_wire({"$future": 1})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_survive(number: float) -> None:
    assert repr(canonical({"value": number})["value"]) == repr(number)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), {("a", "b"): 1}])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        to_wire(value)


def test_unsealed_sensitive_text_never_reaches_the_wire() -> None:
    class Sensitive(str):
        __slots__ = ()

    with pytest.raises(TypeError, match="must be sealed"):
        to_wire({"password": Sensitive("hunter22")})


def test_keys_become_text_and_may_not_collide() -> None:
    assert to_wire({2: "a", None: "c", True: "d"}) == {"2": "a", "null": "c", "true": "d"}
    with pytest.raises(TypeError, match="read the same"):
        to_wire({2: "a", "2": "b"})


def test_a_seal_reads_as_masked_text_and_equals_only_itself() -> None:
    assert str(TOKEN) == "‹secret:token›"
    assert f"Bearer {TOKEN}" == "Bearer ‹secret:token›"
    assert TOKEN != "‹secret:token›"
    assert [TOKEN] != ["‹secret:token›"]
    assert secret(SecretRef("token", "env", "TOKEN")) == TOKEN
    assert secret(SecretRef("token", "env", "OTHER")) != TOKEN
    assert type(TOKEN.upper()) is str
    assert type(TOKEN + "x") is str


@pytest.mark.parametrize("value", [TOKEN, Duration(30), Timestamp(5.5), Unknown("build ran")])
def test_values_can_be_copied_and_pickled(value: Any) -> None:
    for twin in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert to_wire(twin) == to_wire(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5h", 5400),
        ("1m500ms", 60.5),
        ("0s", 0),
    ],
)
def test_durations_are_seconds_and_print_as_written(text: str, seconds: float) -> None:
    duration = parse_duration(text)
    assert duration == seconds
    assert str(duration) == f"{duration}" == text
    assert duration + 1 == seconds + 1
    assert duration < parse_duration("3d")
    assert str(canonical(duration)) == text


@pytest.mark.parametrize(
    "text", ["", "5", "300", "1.5", "5 m", "m", "5m1h", "1h1h", "-5m", "5M", "٣s", "1e3s", "9" * 100 + "s"]
)
def test_a_bare_number_is_no_duration_and_the_units_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="ms, s, m, h, d"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=1e11, allow_nan=False))
def test_the_spelling_of_a_duration_means_it(seconds: float) -> None:
    assert math.isclose(parse_duration(str(Duration(seconds))), seconds, rel_tol=1e-12, abs_tol=1e-8)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:01+01:00", 1),
        ("1970-01-01 00:00Z", 0),
        ("2026-05-01T12:00:00.5-0230", 1777645800.5),
    ],
)
def test_timestamps_are_unix_seconds_and_print_as_written(text: str, seconds: float) -> None:
    moment = parse_timestamp(text)
    assert moment == seconds
    assert str(moment) == text
    assert str(canonical(moment)) == text
    assert moment - parse_timestamp("1970-01-01T00:00:00Z") == seconds
    assert type(moment - moment) is float


def test_seconds_move_a_timestamp() -> None:
    moment = parse_timestamp("2026-05-01T12:00:00Z")
    assert str(moment + parse_duration("90s")) == "2026-05-01T12:01:30Z"
    assert str(moment - 60) == "2026-05-01T11:59:00Z"


@pytest.mark.parametrize(
    "text", ["2026-05-01T12:00:00", "2026-05-01", "now", "", "2026-13-01T00:00:00Z", "2026-05-01T12:00:00+2:00"]
)
def test_a_timestamp_needs_its_offset(text: str) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        parse_timestamp(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (0.5, "0.5"),
        ("x\n", "x\n"),
        ([1, "a", None], '[1,"a",null]'),
        ({"b": 1, "a": "é"}, '{"b":1,"a":"é"}'),
        (parse_duration("5m"), "5m"),
        ([parse_duration("5m"), TOKEN], '["5m","‹secret:token›"]'),
    ],
)
def test_values_inside_text(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_null_is_no_text() -> None:
    with pytest.raises(ValueError, match="null"):
        text_of(None)
    with pytest.raises(ValueError):
        json_text(math.nan)


def test_a_text_with_a_seal_is_a_seal_and_with_an_unknown_unknown() -> None:
    sealed = joined(["Bearer ", TOKEN, "!"])
    assert isinstance(sealed, Sealed)
    assert sealed.parts == ("Bearer ", ("ref", "token", "env", "TOKEN"), "!")
    unknown = joined(["image:", Unknown("build"), " ", TOKEN])
    assert isinstance(unknown, Unknown)
    assert repr(unknown) == "image:<unknown until build> ‹secret:token›"


@pytest.mark.parametrize(
    "question",
    [
        bool,
        str,
        len,
        iter,
        hash,
        int,
        float,
        lambda u: u == 1,
        lambda u: u != 1,
        lambda u: u + 1,
        lambda u: 1 in u,
        lambda u: u < 2,
        lambda u: f"{u}",
    ],
)
def test_unknown_never_decides_silently(question: Any) -> None:
    with pytest.raises(Unknown.Reached) as reached:
        question(Unknown("build"))
    assert reached.value.unknown.why == "build"
    assert not isinstance(reached.value, Exception)


def test_kinds_have_words() -> None:
    values: list[Any] = [None, True, 1, 1.5, "x", [], {}, TOKEN, Duration(1), Timestamp(1), Unknown("")]
    words = [kind_of(value) for value in values]
    assert words == [
        "null",
        "a boolean",
        "a number",
        "a number",
        "a string",
        "a list",
        "a map",
        "a secret",
        "a duration",
        "a timestamp",
        "an unknown value",
    ]
