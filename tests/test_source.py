"""Playbooks are read strictly: JSON's scalars, the place of every node, and every oddity of YAML a problem with its
place.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.interpreter.errors import Place
from runbook.interpreter.source import MAX_NODES, Source, parse


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("3.50", 3.5),
        ("1e3", 1000.0),
        ("True", "True"),
        ("yes", "yes"),
        ("on", "on"),
        ("~", "~"),
        ("0777", "0777"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("+1", "+1"),
        (".5", ".5"),
        ("1.", "1."),
        ("1:30", "1:30"),
        ("2026-05-01", "2026-05-01"),
        (".inf", ".inf"),
        ("'true'", "true"),
        ('"12"', "12"),
        ("!!str 12", "12"),
        ("|-\n  12", "12"),
    ],
)
def test_plain_scalars_are_those_of_json(written: str, value: Any) -> None:
    source = parse(f"key: {written}\n", "f.yaml")
    assert source.problems == []
    assert source.data == {"key": value}
    assert type(source.data["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "rule", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3\n", "yaml-duplicate-key", 3, 1),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "yaml-merge-key", 3, 3),
        ("a: !!int 3\n", "yaml-tag", 1, 4),
        ("a: !mine {b: 1}\n", "yaml-tag", 1, 4),
        ("a: 1\n---\nb: 2\n", "yaml-documents", 2, 1),
        ("a:\n\tb: 1\n", "yaml", 2, 1),
        ("a: b\0c\n", "yaml-encoding", 1, 5),
        ("a: \ud800\n", "yaml-encoding", 1, 4),
        ("\ufeffa: 1\n", "yaml-bom", 1, 1),
        ("a: *b\n", "yaml-alias", 1, 4),
        ("a: &a [*a]\n", "yaml-alias", 1, 8),
        ("? [a]\n: 1\n", "yaml-key", 1, 3),
        ("a: 1e999\n", "yaml-number", 1, 4),
        (f"a: {'9' * 5000}\n", "yaml-number", 1, 4),
        (f"a: {'[' * 200}\n", "yaml-depth", 1, 103),
        ("a: {{ b }}\n", "yaml-quote", 1, 4),
        ("a: {{ b }}-c\n", "yaml-quote", 1, 4),
        ("a: [b] == 1\n", "yaml-quote", 1, 4),
        ('a: "b" c\n', "yaml-quote", 1, 4),
        ("a: @b\n", "yaml", 1, 4),
        ("a: 'b\n", "yaml", 1, 4),
        ("a: {b: 1\n", "yaml", 1, 4),
    ],
)
def test_what_yaml_has_beyond_json_is_a_problem_with_its_place(text: str, rule: str, line: int, column: int) -> None:
    problems = parse(text, "f.yaml").problems
    assert [(one.rule, one.place) for one in problems] == [(rule, Place("f.yaml", line, column))]


def test_all_problems_are_found_at_once_and_reading_goes_on() -> None:
    source = parse("a: 1\na: 2\nb: !x 3\nc: {{ d }}\ne: [1, *nobody]\nf: fine\n", "f.yaml")
    assert [one.place.line for one in source.problems] == [2, 3, 4, 5]
    assert source.data == {"a": 1, "b": "3", "c": "{{ d }}", "e": [1, None], "f": "fine"}


def test_a_syntax_error_keeps_what_was_whole() -> None:
    source = parse("steps:\n  - {id: a}\n  - {id: b}\n  - id: c\n    name: 'never closed\n", "f.yaml")
    assert source.broken
    assert source.data == {"steps": [{"id": "a"}, {"id": "b"}]}
    assert source.place(source.data["steps"], 1) == Place("f.yaml", 3, 5)


def test_places_are_of_the_very_node() -> None:
    source = parse("steps:\n  - id: é a\n    with: {name: 'x', many: [1, [2]]}\n", "f.yaml")
    step = source.data["steps"][0]
    assert source.place(step) == Place("f.yaml", 2, 5)
    assert source.place(step, "with", of_key=True) == Place("f.yaml", 3, 5)
    assert source.place(step["with"], "name") == Place("f.yaml", 3, 18)
    assert source.place(step["with"]["many"], 1) == Place("f.yaml", 3, 33)
    assert source.place({"of": "elsewhere"}, "of") == Place("f.yaml")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: one {{ two }}\n", 1, 11),
        ("a: 'one {{ two }}'\n", 1, 12),
        ('a: "one {{ two }}"\n', 1, 12),
        ("a: |\n  begin\n  one {{ two }}\n", 3, 10),
        ("a: >\n  one\n  {{ two }}\n", 1, 4),
    ],
)
def test_the_place_inside_a_text(text: str, line: int, column: int) -> None:
    source = parse(text, "f.yaml")
    value = source.data["a"]
    assert source.inside(source.place(source.data, "a"), value, value.index("two")) == Place("f.yaml", line, column)


def test_words_with_colons_and_question_marks_inside_braces_as_json_people_write_them() -> None:
    source = parse("a: {url: https://x.example:8080/y?z=1, ask: Go on?, t: 12:30, n: {b: 1}}\n", "f.yaml")
    assert source.problems == []
    assert source.data == {"a": {"url": "https://x.example:8080/y?z=1", "ask": "Go on?", "t": "12:30", "n": {"b": 1}}}
    assert source.place(source.data["a"], "n") == Place("f.yaml", 1, 66)


def test_aliases_are_bounded() -> None:
    assert parse("a: &a [1, 2]\nb: [*a, *a]\n", "f").data["b"] == [[1, 2], [1, 2]]
    names = "abcdefghij"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(names)
    )
    begun = time.thread_time()
    source = parse(bomb, "f")
    assert [one.rule for one in source.problems] == ["yaml-size"]
    assert f"{MAX_NODES:,}" in source.problems[0].message
    assert time.thread_time() - begun < 1


def test_a_huge_file_is_refused_unread() -> None:
    assert [one.rule for one in parse("a" * 9_000_000, "f").problems] == ["yaml-size"]


# what a YAML text may hold unescaped, without the characters that YAML 1.1 takes for line ends
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"], exclude_characters="\ufeff"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_json(data: Any) -> None:
    source = parse(json.dumps({"value": data}, ensure_ascii=False), "f.yaml")
    assert source.problems == []
    assert source.data == {"value": data}


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab:-{}[]|>&*!%@`'\"#,? \n\t0.\\"), max_size=60))
def test_no_text_raises_and_every_problem_is_inside_it(text: str) -> None:
    source = parse(text, "f.yaml")
    assert isinstance(source, Source)
    lines = text.split("\n")
    for one in source.problems:
        assert 1 <= one.place.line <= len(lines) + 1
        assert one.place.column >= 1
