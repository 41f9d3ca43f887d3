"""Inputs: what is given becomes typed values, or every problem at once; never a traceback."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.interpreter import inputs
from runbook.interpreter.effects import SecretRef
from runbook.interpreter.errors import Place
from runbook.interpreter.filters import regex_search
from runbook.interpreter.inputs import Misfit, coerce, convert, from_text
from runbook.interpreter.model import Input
from runbook.interpreter.times import Duration, Timestamp
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import Sealed, secret

HERE = Place("-i")
TYPES = ("string", "integer", "number", "boolean", "duration", "timestamp", "list", "map", "path")


def of(kind: Any, **more: Any) -> Input:
    return Input(name="x", type=kind, **more)


def value(one: Input, given: Any) -> Any:
    values, problems = coerce((one,), {"x": given}, {}, HERE)
    assert problems == ()
    return values["x"]


def problem(one: Input, given: Any) -> str:
    values, problems = coerce((one,), {"x": given}, {}, HERE)
    assert "x" not in values
    (found,) = problems
    assert found.place == HERE
    return " | ".join(part for part in (found.message, found.expected, found.hint) if part)


@pytest.mark.parametrize(
    ("one", "given", "wanted"),
    [
        (of("string"), "a", "a"),
        (of("string", enum=("a", "b")), "b", "b"),
        (of("string", pattern="[a-z]+"), "abc", "abc"),
        (of("integer"), 3.0, 3),
        (of("integer", minimum=1, maximum=3), 3, 3),
        (of("number"), 3, 3),
        (of("boolean"), False, False),
        (of("duration"), "1h30m", Duration(5400)),
        (of("timestamp"), "1970-01-01T00:01:00Z", Timestamp(60)),
        (of("list", items=of("duration")), ["1s", "2s"], [Duration(1), Duration(2)]),
        (of("map"), {"a": [1]}, {"a": [1]}),
        (of("path"), "a/b", "a/b"),
        (of("string", required=False), None, None),
    ],
)
def test_values_are_typed(one: Input, given: Any, wanted: Any) -> None:
    found = value(one, given)
    assert found == wanted
    assert type(found) is type(wanted)


def test_durations_and_moments_print_as_written() -> None:
    assert str(value(of("duration"), "90m")) == "90m"
    assert str(value(of("timestamp"), "2026-05-01T12:00:00+02:00")) == "2026-05-01T12:00:00+02:00"


@pytest.mark.parametrize(
    ("one", "given", "words"),
    [
        (of("string"), 5, '`x` cannot be 5 | text | quote it: "5"'),
        (of("string"), None, "`x` cannot be null | text"),
        (
            of("string", enum=("production", "staging")),
            "prod",
            "`x` cannot be prod | one of production, staging | did you mean",
        ),
        (of("string", pattern="[a-z]+"), "a1", "`x` cannot be a1 | text that matches [a-z]+"),
        (of("integer"), "5", "`x` cannot be 5 | an integer | without the quotes"),
        (of("integer"), True, "`x` cannot be true | an integer"),
        (of("integer", minimum=1), 0, "`x` cannot be 0 | an integer, at least 1"),
        (of("number", maximum=1), 1.5, "`x` cannot be 1.5 | a number, at most 1"),
        (of("number"), float("nan"), "`x` cannot be nan | a number"),
        (of("boolean"), "yes", "`x` cannot be yes | true or false | write true"),
        (of("duration"), 30, "a bare number has no unit: write 30s or 30m"),
        (of("duration"), "30", "a bare number has no unit: write 30s or 30m"),
        (of("timestamp"), "2026-05-01T12:00:00", "the offset (Z or +02:00) is required"),
        (of("list"), "a", "a list of one: [...]"),
        (of("list", items=of("integer")), [1, "b"], "`x[1]` cannot be b | an integer"),
        (of("map"), [1], "`x` cannot be a list | a map"),
        (of("path"), "", "a path"),
        (of("string", secret=True), "hunter2", "`x` takes a reference to a secret, never its value"),
        (
            of("string"),
            secret(SecretRef("s", "env", "S")),
            "`x` takes no secret | text | declare the input with `secret: true`",
        ),
    ],
)
def test_what_does_not_fit_says_what_would(one: Input, given: Any, words: str) -> None:
    assert words in problem(one, given)
    assert "hunter2" not in problem(one, given)


def test_all_problems_at_once() -> None:
    declared = (
        Input("needed", "string", description="Where."),
        Input("count", "integer"),
        Input("later", "duration", required=False),
    )
    values, problems = coerce(declared, {"cuont": 3, "count": "x"}, {}, HERE)
    assert values == {"later": None}
    assert [(one.path, one.rule) for one in problems] == [
        ("inputs.cuont", "unknown-input"),
        ("inputs.needed", "input"),
        ("inputs.count", "input"),
    ]
    assert problems[0].hint == "did you mean `count`?"
    assert problems[1].hint == "give it: -i needed=..."


def test_the_environment_answers_as_text() -> None:
    declared = (
        Input("n", "integer", from_env="N"),
        Input("l", "list", from_env="L"),
        Input("s", "string", from_env="S", secret=True),
    )
    values, problems = coerce(declared, {}, {"N": "12", "L": "[a, 1]", "S": "hunter2"}, HERE)
    assert problems == ()
    assert (values["n"], values["l"]) == (12, ["a", 1])
    assert values["s"] == secret(SecretRef("s", "env", "S"))
    assert "hunter2" not in repr(values)
    _, problems = coerce(declared[:1], {}, {}, HERE)
    assert problems[0].hint == "set N, or give -i n=..."


def test_a_secret_input_takes_coordinates_and_seals() -> None:
    one = of("string", secret=True)
    k8s = {"namespace": "n", "secret": "s", "key": "k"}
    assert value(one, {"k8s": k8s}) == secret(SecretRef("x", "k8s", k8s))
    assert value(one, {"file": "/run/key"}) == secret(SecretRef("x", "file", "/run/key"))
    passed = secret(SecretRef("other", "env", "O"))
    assert value(one, passed) is passed
    for wrong in ({"env": ""}, {"env": "A", "file": "b"}, {"k8s": {"namespace": "n"}}, {"vault": "x"}, 5):
        assert "reference" in problem(one, wrong)
    assert isinstance(value(of("string", secret=True, required=False, default={"env": "A"}), {"env": "B"}), Sealed)


def test_what_a_preview_does_not_know_passes() -> None:
    unknown = Unknown("the outputs of build")
    assert value(of("integer"), unknown) is unknown
    assert value(of("list", items=of("integer")), [1, unknown])[1] is unknown


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("string", "5", "5"),
        ("string", "null", "null"),
        ("integer", "5", 5),
        ("number", "5.5", 5.5),
        ("boolean", "True", True),
        ("duration", "5m", "5m"),
        ("list", "[a, {b: 1}]", ["a", {"b": 1}]),
        ("list", "- a\n- b", ["a", "b"]),
        ("map", "{url: https://x.example/?a=b}", {"url": "https://x.example/?a=b"}),
        ("path", "a b", "a b"),
    ],
)
def test_the_command_line(kind: str, text: str, wanted: Any) -> None:
    assert from_text(of(kind), text) == wanted


def test_null_on_the_command_line_is_for_optional_inputs() -> None:
    assert from_text(of("string", required=False), "null") is None
    with pytest.raises(Misfit, match="cannot be null"):
        from_text(of("integer"), "null")
    with pytest.raises(Misfit, match="is no YAML"):
        from_text(of("list"), "[a")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["5m", "2026-05-01T00:00:00Z", "1e999", "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DECLARED = st.builds(
    Input,
    name=st.just("x"),
    type=st.sampled_from(TYPES),
    required=st.booleans(),
    enum=st.lists(st.just("a"), max_size=1).map(tuple),
    pattern=st.none() | st.just("[a-z]*"),
    minimum=st.none() | st.just(1),
    secret=st.booleans(),
    from_env=st.none() | st.just("X"),
).filter(lambda one: not one.enum or one.type == "string")


@settings(max_examples=2000)
@given(DECLARED, ANYTHING, st.text(max_size=30))
def test_nothing_raises_and_what_passes_passes_again(one: Input, anything: Any, text: str) -> None:
    values, problems = coerce((one,), {"x": anything}, {"X": text}, HERE)
    assert (("x" in values) + len(problems)) == 1
    if "x" in values:
        assert coerce((one,), values, {}, HERE) == (values, ())
    coerce((one,), {}, {"X": text}, HERE)
    try:
        given = from_text(one, text)
    except inputs.Misfit:
        return  # said so, in its own words: the only exception that may come
    else:
        coerce((one,), {"x": given}, {}, HERE)


def test_a_pattern_that_python_would_warn_of_says_nothing_on_the_screen() -> None:
    """`[[` may mean something else in a later Python; whoever runs a playbook at night need not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = Input("a", "string", pattern="[[a]+")
        assert convert(one, "a[a") == "a[a"
        assert regex_search("x[a", "[[a]+") == "[a"
