"""The language's own filters, and the bound on regular expressions."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.interpreter.expressions import ExpressionError, evaluate
from runbook.interpreter.filters import (
    b64decode,
    b64encode,
    from_json,
    from_yaml,
    human_duration,
    promql_quote,
    regex_search,
    shell_quote,
    sql_identifier,
    sql_literal,
    stages,
    to_json,
    to_yaml,
)
from runbook.interpreter.patterns import checked
from runbook.interpreter.times import parse_duration, parse_timestamp

printable = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40)
json_data = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**15), 10**15),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(blacklist_categories=["Cs"]), max_size=20),
        st.sampled_from(
            [
                "yes",
                "on",
                "0777",
                "1:30",
                "null",
                "~",
                "1e3",
                "- a",
                "a: b",
                "a\nb\n",
                "a\n\nb",
                "#",
                "x # y",
                " x",
                "{{ x }}",
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("ab: #-\n'\"{}1é", max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)


def of(source: str, **names: Any) -> Any:
    return evaluate(source, names)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("'hello' | b64encode", "aGVsbG8="),
        ("'aGVsbG8=' | b64decode", "hello"),
        ("'aGVs\nbG8' | b64decode", "hello"),
        ("'{\"a\": [1, 2.5, null]}' | from_json", {"a": [1, 2.5, None]}),
        ("{'a': [1, true, none]} | to_json", '{"a":[1,true,null]}'),
        ("{'a': '<é>'} | tojson", '{"a":"<é>"}'),
        ("[1] | to_json(indent=2)", "[\n  1\n]"),
        ("'on: yes\nn: 1\nt: 1:30' | from_yaml", {"on": "yes", "n": 1, "t": "1:30"}),
        ("{'on': 'yes', 'l': [1, {'a': 2}]} | to_yaml", '"on": "yes"\nl:\n  - 1\n  - a: 2\n'),
        ("'90s' | duration == 90", True),
        ("90 | duration | string", "1m30s"),
        ("0 | strftime", "1970-01-01T00:00:00Z"),
        ("at | strftime('%Y-%m-%d')", "2026-05-01"),
        ("at | strftime('%H:%M', '+02:00')", "14:00"),
        ("'2026-05-01T12:00:00Z' | strftime('%s %a %B')", "1777636800 Fri May"),
        ("d | human_duration", "4m 10s"),
        ("'1h30m' | human_duration", "1h 30m"),
        ("[1,2,3,4,5,6,7,8,9] | stages(1, '25%', '100%')", [[1], [2, 3], [4, 5, 6, 7, 8, 9]]),
        ("[] | stages(1, '100%')", []),
        ("[1] | stages(1, '25%', '100%')", [[1]]),
        ("'v1.2.3' | regex_search('[0-9]+\\\\.[0-9]+')", "1.2"),
        ("'v1.2.3' | regex_search('v([0-9]+)', 1)", "1"),
        ("'v1' | regex_search('(?P<major>[0-9]+)', 'major')", "1"),
        ("'abc' | regex_search('x')", None),
        ("'ABC' | regex_search('b', ignorecase=true)", "B"),
        ("'/a/b.txt' | basename", "b.txt"),
        ("'/a/b.txt' | dirname", "/a"),
        ('"it\'s" | shell_quote', "'it'\"'\"'s'"),
        ("['a b', 3] | shell_quote", "'a b' 3"),
        ("'we\"ird' | sql_identifier", '"we""ird"'),
        ("['public', 'orders'] | sql_identifier", '"public"."orders"'),
        ('"O\'Neil" | sql_literal', "'O''Neil'"),
        ("'a\\\\b' | sql_literal", "E'a\\\\b'"),
        ("[none, true, 3, 1.5] | map('sql_literal') | join(' ')", "NULL true 3 1.5"),
        ("'a\"b\\\\c' | promql_quote", '"a\\"b\\\\c"'),
        ("true | string", "true"),
        ("'a' | upper", "A"),
        ("[3, 1] | sort | first", 1),
        ("l | selectattr('s', 'in', ['f']) | map(attribute='n') | list", ["b"]),
        ("m | dictsort | map('first') | list", ["a", "b"]),
    ],
)
def test_filters(source: str, value: Any) -> None:
    got = of(
        source,
        at=parse_timestamp("2026-05-01T12:00:00Z"),
        d=parse_duration("250s"),
        l=[{"s": "s", "n": "a"}, {"s": "f", "n": "b"}],
        m={"b": 1, "a": 2},
    )
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("'a!' | b64decode", "not base64"),
        ("'/w==' | b64decode", "not UTF-8"),
        ("5 | b64encode", "takes a string, not a number"),
        ("'{' | from_json", "from_json"),
        ("'[NaN]' | from_json", "NaN is not JSON"),
        ("'" + "[" * 100_0 + "' | from_json", "from_json"),
        ("'a: 1\na: 2' | from_yaml", "from_yaml: line 2"),
        ("'5' | duration", "ms, s, m, h, d"),
        ("'x' | strftime", "not a timestamp"),
        ("0 | strftime('%Q')", "'%Q'"),
        ("(10**18) | strftime", "years 1 to 9999"),
        ("0 | strftime('%Y', 'Europe/Berlin')", "is not an offset"),
        ("'x' | stages(1)", "takes a list"),
        ("[1] | stages", "at least one size"),
        ("[1] | stages('5')", "neither a number of items nor a share"),
        ("[1, 2, 3] | stages(2, 1)", "cannot shrink"),
        ("'x' | regex_search('(')", "regex_search"),
        ("'x' | regex_search('x', 3)", "no group 3"),
        ("none | shell_quote", "null"),
        ("'' | sql_identifier", "1 to 63 bytes"),
        ("('x' * 64) | sql_identifier", "bytes"),
        ("[1] | sql_literal", "not a list"),
    ],
)
def test_filters_say_what_is_wrong(source: str, says: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        of(source)
    assert says in raised.value.message


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_base64_there_and_back(text: str) -> None:
    assert b64decode(b64encode(text)) == text
    assert b64decode(base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")) == text


@given(json_data)
def test_json_and_yaml_there_and_back(value: Any) -> None:
    assert repr(from_json(to_json(value))) == repr(value)
    assert repr(from_yaml(to_yaml(value))) == repr(value)


@given(st.lists(printable, min_size=1, max_size=4))
@settings(max_examples=40)
def test_a_shell_reads_back_what_was_quoted(words: list[str]) -> None:
    assert shlex.split(shell_quote(words)) == words
    line = f"printf '%s\\0' {shell_quote(words)}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=10, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


@given(printable)
def test_sql_and_promql_quotes_never_end_early(text: str) -> None:
    literal = sql_literal(text)
    body = literal.removeprefix("E")[1:-1]
    assert "'" not in body.replace("''", "")
    assert body.replace("''", "'").replace("\\\\", "\\" if literal.startswith("E") else "\\\\") == text
    if 0 < len(text.encode()) <= 63:
        assert '"' not in sql_identifier(text)[1:-1].replace('""', "")
    quoted = promql_quote(text)
    assert re.fullmatch(r'"(?:[^"\\\n]|\\.)*"', quoted)
    assert json.loads(re.sub(r"\\x(..)", r"\\u00\1", quoted)) == text


@given(st.lists(st.integers(), max_size=50), st.lists(st.integers(1, 100).map("{}%".format), min_size=1, max_size=4))
def test_stages_keep_order_and_lose_nothing_up_to_the_last(items: list[int], sizes: list[str]) -> None:
    sizes = sorted(sizes, key=lambda size: int(size[:-1]))
    cut = stages(items, *sizes, "100%")
    assert [item for stage in cut for item in stage] == items
    assert all(cut)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.35, "350ms"),
        (4.25, "4.2s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (250, "4m 10s"),
        (7500, "2h 5m"),
        (7200, "2h"),
        (273600, "3d 4h"),
        (-61, "-1m 1s"),
    ],
)
def test_durations_for_people(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|a)*b",
        r"(a*)*b",
        r"(x+x+)+y",
        r"(a?){50}a{50}",
        r"(\w+\s*)+$",
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        r"(a)\1",
        "(",
        "a" * 2000,
    ],
)
def test_a_pattern_that_may_run_forever_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regex_search"):
        regex_search("a" * 28 + "!", pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(\d+)\.(\d+)\.(\d+)", "1.2.3 " * 5000),
        (r"(?:\d{1,3}\.){3}\d{1,3}", "10.0.0.1 " * 5000),
        (r"^version: (\S+)$", "version: 5"),
        (r"error: (.*)", "x" * 60000 + "error: y"),
        (r"\bv?(\d+)(?:\.(\d+))*", "v1.2.3"),
        (r"(foo|bar)+", "foobar"),
        (r"^(?:[a-z0-9-]+\.)*[a-z]+$", "a.b.c"),
        (r"\"message\": \"([^\"]*)\"", '{"message": "x"}'),
        (r"(?i)error|warn(?:ing)?", "WARNING"),
        (r"\s+$", "x  "),
    ],
)
def test_everyday_patterns_pass(pattern: str, text: str) -> None:
    found = re.search(pattern, text)
    assert found is not None
    assert regex_search(text, pattern) == found.group()


@pytest.mark.parametrize(
    "pattern",
    [
        r"a*b",
        r".*foo.*bar",
        r"^.*x.*y",
        r"\s+$",
        r"a?a?a?a?a?a?a?a?aaaaaaaab",
        r"(?:a|ab)(?:c|bcd)d*x",
        r"[ab]*[bc]*[cd]*e",
    ],
)
@pytest.mark.parametrize("unit", ["a", "foo", "x", " ", "ab", "abcd", "1", "1."])
def test_an_allowed_search_ends_in_time(pattern: str, unit: str) -> None:
    low, high = 1, 1_000_000
    while low < high:  # the longest text that is allowed
        middle = (low + high + 1) // 2
        try:
            checked(pattern, middle)
            low = middle
        except ValueError:
            high = middle - 1
    text = (unit * low)[:low]
    begun = time.process_time()  # and not the wall clock: other tests run beside this one
    regex_search(text, pattern)
    assert time.process_time() - begun < 5
    assert low >= 100
