"""Expressions: native values, text, undefined, secrets, unknowns, static analysis, and that data is never code."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.interpreter.effects import SecretRef
from runbook.interpreter.environment import compiled
from runbook.interpreter.expressions import (
    ExpressionError,
    analyse,
    decide,
    evaluate,
    render,
    render_file,
    secret_misuse,
)
from runbook.interpreter.plain_expressions import NotPlainError, plain_expression
from runbook.interpreter.times import parse_duration, parse_timestamp
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import Sealed, secret

NAMES: dict[str, Any] = {
    "inputs": {
        "env": "production",
        "n": 3,
        "flag": True,
        "off": False,
        "list": [1, 2, 3],
        "map": {"a": 1},
        "d": parse_duration("90s"),
        "at": parse_timestamp("2026-05-01T12:00:00Z"),
        "none": None,
        "text": "007",
        "evil": "{{ inputs.env }}",
    },
    "steps": {
        "build": {"status": "succeeded", "outputs": {"items": 3, "keys": "k", "image": "app:1"}, "error": None},
        "later": {"status": "pending", "outputs": Unknown("later ran")},
    },
    "secrets": {"token": secret(SecretRef("token", "env", "TOKEN")), "db": secret(SecretRef("db", "env", "DB"))},
    "failure": {"kind": "none"},
}


def error_of(source: Any, **more: Any) -> ExpressionError:
    with pytest.raises(ExpressionError) as raised:
        render(source, {**NAMES, **more})
    return raised.value


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ inputs.n }}", 3),
        ("{{ inputs.flag }}", True),
        (" {{ inputs.n }}\n", 3),
        ("{{inputs.list}}", [1, 2, 3]),
        ("{{ inputs.none }}", None),
        ("{{ inputs.text }}", "007"),
        ("{{ '12' }}", "12"),
        ("{{ inputs.n + 1 }}", 4),
        ("{{ inputs.n / 2 }}", 1.5),
        ("{{ inputs.list | map('string') | list }}", ["1", "2", "3"]),
        ("{{ inputs.list | map('string') }}", ["1", "2", "3"]),
        ("{{ range(3) }}", [0, 1, 2]),
        ("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ("{{ '}}' }}", "}}"),
        ("{{ inputs.map.items() | list }}", [["a", 1]]),
        ("{{ dict(a=1, b=2) }}", {"a": 1, "b": 2}),
        ("{{ namespace(a=1).a }}", 1),
        ("{{ inputs.list[-1] }}", 3),
        ("{{ inputs.list[1:] }}", [2, 3]),
        ("{{ inputs.list | groupby(0) | list }}", None),
    ][:-1],
)
def test_one_expression_keeps_its_native_type(template: str, value: Any) -> None:
    got = render(template, NAMES)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a {{ inputs.flag }}", "a true"),
        ("{{ inputs.n }}{{ inputs.n }}", "33"),
        ("{{ inputs.list }} {{ inputs.map }}", '[1,2,3] {"a":1}'),
        ("in {{ inputs.d }} at {{ inputs.at }}\n", "in 90s at 2026-05-01T12:00:00Z\n"),
        ("x\r\n{{ inputs.n }}\r\n\n", "x\r\n3\r\n\n"),
        ("{% if x %}{{ inputs.n }}{# not a comment #}", "{% if x %}3{# not a comment #}"),
        ("a   {{- inputs.n -}}   b", "a3b"),
        ("{{ '{{' }} literal }}", "{{ literal }}"),
        ("{{ 'a' ~ inputs.flag ~ inputs.list }}!", "atrue[1,2,3]!"),
        ("{{ [true, inputs.d] | join(', ') }}!", "true, 90s!"),
        ("{{ '%s and %d' | format(true, 3) }}!", "true and 3!"),
        ("{{ inputs.text }}-{{ inputs.n }}", "007-3"),
    ],
)
def test_other_strings_are_text(template: str, text: str) -> None:
    assert render(template, NAMES) == text


@pytest.mark.parametrize("text", ["plain", "", "{% for x in y %}", "{# c #}", "}}", "{ {", "${x}", "a\n"])
def test_a_string_without_braces_is_itself(text: str) -> None:
    assert render(text, {}) is text


def test_trees_are_rendered_and_keys_are_not_templates() -> None:
    assert render({"{{ inputs.n }}": ["{{ inputs.n }}", {"x": "n={{ inputs.n }}"}, 5]}, NAMES) == {
        "{{ inputs.n }}": [3, {"x": "n=3"}, 5]
    }


@given(st.text(alphabet="{}%#ab '\"\\\n-|.()", max_size=30))
def test_data_is_never_evaluated(hostile: str) -> None:
    names = {"x": hostile, "steps": {"a": {"outputs": {"stdout": hostile}}}}
    assert render("{{ x }}", names) == hostile
    assert render(">{{ x }}<{{ steps.a.outputs.stdout }}", names) == f">{hostile}<{hostile}"
    assert render("{{ x ~ 'z' }}", names) == hostile + "z"
    assert render({"a": "{{ [x] }}"}, names) == {"a": [hostile]}


@given(st.text(alphabet="{}%#ab '\"\\\n-|.()[]", max_size=30))
def test_no_template_is_a_crash(hostile: str) -> None:
    for template in (hostile, "{{" + hostile + "}}", "{{ a" + hostile):
        with contextlib.suppress(ExpressionError):
            render(template, {"a": 1, "b": "x"})
        assert analyse(template, bare=False).offset >= 0
        assert analyse(template, bare=True).offset >= 0


def test_keys_come_before_methods() -> None:
    assert render("{{ steps.build.outputs.items }}", NAMES) == 3
    assert render("{{ steps.build.outputs.keys }}!", NAMES) == "k!"
    assert render("{{ inputs.map.get('zz', 5) }}", NAMES) == 5
    assert "not a value" in error_of("{{ inputs.map.items }}").message
    assert "inputs.map" in error_of("{{ inputs.map['items'] }}").message


@pytest.mark.parametrize(
    ("template", "path", "says"),
    [
        ("{{ steps.build.outputs.imgae }}", "steps.build.outputs.imgae", "did you mean `image`?"),
        ("{{ stpes.build }}", "stpes", "did you mean `steps`?"),
        ("x {{ inputs.evn | upper }}", "inputs.evn", "did you mean `env`?"),
        ("{{ steps.build.error.message }}", "steps.build.error.message", "steps.build.error is null"),
        ("{{ [1, inputs.zzz] }}", "inputs.zzz", "inputs.zzz is not defined"),
        ("{{ inputs.zzz + 1 }}", "inputs.zzz", "`inputs.zzz + 1`"),
        ("{{ inputs['zzz'] }}", "inputs.zzz", "not defined"),
        ("{{ inputs.list[7] }}", "", "a list of 3 items has no item 7"),
        ("{{ inputs.list | map(attribute='q') | list }}", "", "a number has no 'q'"),
    ],
)
def test_an_undefined_name_is_an_error_that_helps(template: str, path: str, says: str) -> None:
    error = error_of(template)
    assert error.path == path
    assert says in error.message


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ 1 + 'a' }}", "text is joined by `~`"),
        ("{{ inputs.env > 5 }}", "a string and a number cannot be compared by `>`"),
        ("{{ 5 | length }}", "a number has no length"),
        ("{{ 'x' in 5 }}", "a number is no list"),
        ("{{ none < 1 }}", "null and a number"),
        ("{{ 'a' | replace }}", "replace: missing 2 required"),
        ("{{ [] | first }}", "sequence was empty"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ inputs.env() }}", "a string cannot be called"),
        ("{{ inputs.n if false }}", "no else section"),
        ("{{ inputs.env | nope }}", "nope"),
        ("{{ 5 | from_json }}", "from_json takes a string, not a number"),
    ],
)
def test_errors_are_in_the_words_of_the_language(template: str, says: str) -> None:
    message = error_of(template).message
    assert says in message
    assert template.strip("{} ") in message


def test_default_and_defined_see_through_a_missing_path() -> None:
    assert render("{{ steps.build.outputs.a.b.c | default('none') }}", NAMES) == "none"
    assert render("{{ steps.build.error.message | default('fine') }}", NAMES) == "fine"
    assert evaluate("inputs.zz.y is defined", NAMES) is False
    assert evaluate("inputs.none is defined", NAMES) is True


def test_null_is_no_text() -> None:
    assert "null cannot stand inside text" in error_of("a {{ inputs.none }}").message
    assert "inputs.none" in error_of("a {{ inputs.none }}").message
    assert error_of("{{ 'a' ~ inputs.none }}").message
    assert render("a{{ inputs.none | default('', true) }}", NAMES) == "a"


def test_lenient_texts_say_what_is_unknown() -> None:
    template = "{{ steps.x.outputs.y }}, {{ inputs.none }}, {{ 1 / 0 }}, {{ inputs.n }}"
    assert render(template, NAMES, lenient=True) == "<unknown: steps.x>, <unknown: inputs.none>, <unknown: 1 / 0>, 3"
    assert render({"a": "{{ steps.x }}"}, NAMES, lenient=True) == {"a": "<unknown: steps.x>"}


@pytest.mark.parametrize("value", ["x", 0, 1, None, [], parse_duration("1s")])
def test_a_condition_is_a_boolean(value: Any) -> None:
    with pytest.raises(ExpressionError, match="true or false"):
        decide(value)


def test_decide() -> None:
    assert (decide(True), decide(False), decide(Unknown("x"))) == ("yes", "no", "maybe")


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("inputs.d < 100", True),
        ("inputs.d < ('2m' | duration)", True),
        ("inputs.d + 1", 91.0),
        ("inputs.d == 90", True),
        ("inputs.at > inputs.at - 5", True),
        ("inputs.env == 'production' and not inputs.off", True),
        ("inputs.n in inputs.list", True),
        ("'a' if inputs.flag else 'b'", "a"),
        ("inputs.n > 2 and inputs.n < 4", True),
        ("1 == 1.0", True),
    ],
)
def test_bare_expressions(source: str, value: Any) -> None:
    assert evaluate(source, NAMES) == value


RUNAWAYS = [
    "range(10**9)",
    "'x' * 10**9",
    "10**9 * 'x'",
    "[0] * 10**9",
    "10 ** (10 ** 9)",
    "(10 ** 1000) * (10 ** 1000)",
    "'%1000000000d' % 1",
    "'%*d' % (1000000000, 1)",
    "'%.1000000000f' | format(1.5)",
    "'{:>1000000000}'.format(1)",
    "'{:>{}}'.format(1, 1000000000)",
    "'x'.ljust(1000000000)",
    "'x' | center(1000000000)",
    "'a\nb' | indent(1000000000)",
    "('x' * 1000000) | replace('x', 'y' * 1000000)",
    "('x' * 1000000).replace('x', 'y' * 1000000)",
    "range(100000) | join('x' * 1000000)",
    "('x' * 1000000).join(range(100000) | map('string') | list)",
    "[1] | batch(1000000000, 0) | list",
    "[1] | slice(1000000000) | list",
    "1.5 | round(1000000000, 'ceil')",
    "{'a': 1} | tojson(indent=1000000000)",
    "('x' * 8000000) ~ ('x' * 8000000)",
    "'" + "a" * 30 + "!' | regex_search('(a+)+$')",
    "'" + "a" * 30 + "!' | regex_search('(a|a)*$')",
    "('a' * 1000000) | regex_search('a*a*b')",
    "[" * 3000 + "]" * 3000,
    "-" * 5000 + "1",
]


@pytest.mark.parametrize("source", RUNAWAYS, ids=lambda source: source[:40])
def test_an_expression_cannot_run_away(source: str) -> None:
    begun = time.thread_time()
    with pytest.raises(ExpressionError) as raised:
        evaluate(source, {})
    assert len(raised.value.message) < 600
    assert time.thread_time() - begun < 2


@pytest.mark.parametrize(
    "source",
    [
        "''.__class__",
        "''['__class__']",
        "inputs.__class__",
        "'' | attr('__class__')",
        "'{0.__class__}'.format(1)",
        "'{0.__class__}' | format(1)",
        "range.__globals__",
        "dict.fromkeys([1])",
        "inputs.list.append(1)",
        "inputs.map.update({'b': 1})",
        "inputs.list.clear()",
        "cycler",
        "joiner(',')",
        "lipsum()",
        "now()",
        "[1, 2] | random",
        "self._TemplateReference__context",
        "namespace.__init__",
        "namespace(a=1)",
        "inputs.env.encode()",
        "inputs.n()",
        "inputs.map.items",
        "(inputs.list | map('upper')).gi_frame",
        "inputs.d.__class__",
        "inputs.d.written",
        "secrets.token.parts",
    ],
)
def test_the_sandbox_has_no_way_out(source: str) -> None:
    before = repr(NAMES)
    try:
        value = evaluate(source, NAMES)
    except ExpressionError:
        value = None
    assert value in (None, "{0.__class__}")
    assert repr(NAMES) == before


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{{ secrets.token }}", (("ref", "token", "env", "TOKEN"),)),
        ("Bearer {{ secrets.token }}", ("Bearer ", ("ref", "token", "env", "TOKEN"))),
        ("{{ secrets.token if inputs.flag else secrets.db }}", (("ref", "token", "env", "TOKEN"),)),
        ("{{ secrets.token }}:{{ secrets.db }}", (("ref", "token", "env", "TOKEN"), ":", ("ref", "db", "env", "DB"))),
    ],
)
def test_secrets_are_seals(template: str, parts: Any) -> None:
    sealed = render(template, NAMES)
    assert isinstance(sealed, Sealed)
    assert sealed.parts == parts


def test_an_absent_optional_secret_is_null() -> None:
    assert render("{{ secrets.gone }}", NAMES) is None
    assert render("Bearer {{ secrets.gone }}", NAMES) is None
    assert render({"a": "{{ secrets.gone if inputs.flag else none }}"}, NAMES) == {"a": None}
    assert evaluate("secrets.gone is defined", NAMES) is False
    assert evaluate("secrets.token is defined", NAMES) is True


def test_masked_text_does_not_come_back_to_life() -> None:
    assert render("{{ x }}", {"x": "‹secret:token›"}) == "‹secret:token›"
    assert type(render("a {{ x }}", {"x": "‹secret:token›"})) is str


@pytest.mark.parametrize(
    "source",
    [
        "{{ secrets.token }}",
        "Bearer {{ secrets.token }} {{ secrets['db'] }}",
        "{{ secrets.a if secrets.b is defined else none }}",
        "{{ secrets.a if inputs.x else (secrets.b if inputs.y else '') }}",
        "{{ inputs.password }}",
        "{{ inputs.other | upper }}",
        "{{ 'x' if secrets.a is not defined else 'y' }}",
    ],
)
def test_where_secrets_may_stand(source: str) -> None:
    assert secret_misuse(source, bare=False, allowed=True, inputs=frozenset({"password"})) is None


@pytest.mark.parametrize(
    "source",
    [
        "{{ secrets.token | upper }}",
        "{{ secrets.token == 'x' }}",
        "{{ 'a' ~ secrets.token }}",
        "{{ secrets }}",
        "{{ secrets.token[0] }}",
        "{{ secrets.token.upper() }}",
        "{{ [secrets.token] }}",
        "{{ secrets[inputs.n] }}",
        "{{ secrets.items() }}",
        "{{ 'a' in secrets.token }}",
        "{{ secrets.token if secrets.db else 1 }}",
        "{{ dict(a=secrets.token) }}",
        "{{ secrets.token or 'x' }}",
        "{{ secrets.token | default('x') }}",
        "{{ not secrets.token }}",
        "{{ inputs.password | b64encode }}",
        "{{ inputs['password'] ~ 'x' }}",
        "{{ secrets.token is none }}",
        "{{ secrets | dictsort }}",
        "{{ {'k': secrets.token} }}",
        "x {{ secrets.a is defined and secrets.a }}",
    ],
)
def test_where_secrets_may_not_stand(source: str) -> None:
    assert secret_misuse(source, bare=False, allowed=True, inputs=frozenset({"password"}))


def test_secrets_only_where_the_schema_allows_them() -> None:
    assert "does not take secrets" in (secret_misuse("{{ secrets.token }}", bare=False, allowed=False) or "")
    assert secret_misuse("secrets.token is defined", bare=True, allowed=False) is None
    assert secret_misuse("secrets.token == 'x'", bare=True, allowed=False)
    assert secret_misuse("secrets.token", bare=True, allowed=True)


UNKNOWN = "steps.later.outputs"
UNKNOWN_RESULTS = [
    f"{UNKNOWN}.image",
    f"{UNKNOWN}.pods[0].name | upper",
    f"{UNKNOWN}.n + 1",
    f"1 + {UNKNOWN}.n",
    f"inputs.off or {UNKNOWN}.b",
    f"{UNKNOWN}.b or inputs.flag",
    f"{UNKNOWN}.x is defined",
    f"{UNKNOWN}.x is not defined",
    f"{UNKNOWN}.x | default('d')",
    f"{UNKNOWN}.x | default('d', true)",
    f"{UNKNOWN}.x | int",
    f"{UNKNOWN}.x | float(0)",
    f"{UNKNOWN}.x is sequence",
    f"{UNKNOWN}.x is mapping",
    f"{UNKNOWN}.x is none",
    f"{UNKNOWN}.x is not none",
    f"{UNKNOWN}.x is string",
    f"'k' in {UNKNOWN}.x",
    f"{UNKNOWN}.x in [1, 2]",
    f"{UNKNOWN}.pods | map(attribute='n') | list",
    f"{UNKNOWN}.items()",
    f"{UNKNOWN}.x | tojson",
    f"{{'a': {UNKNOWN}.x}} | tojson",
    f"{UNKNOWN}.x ~ 'b'",
    f"'a' if {UNKNOWN}.x else 'b'",
    f"[3, {UNKNOWN}.x] | sort",
    f"[1] == {UNKNOWN}.x",
    f"[1] == [{UNKNOWN}.x]",
    f"{UNKNOWN}.x is eq 1",
    f"dict(a=1)[{UNKNOWN}.x]",
    f"'%s' | format({UNKNOWN}.x)",
    f"'%s' % {UNKNOWN}.x",
    f"{UNKNOWN}.x | length",
    f"[{UNKNOWN}.x] | join(',')",
    f"{UNKNOWN}.x | first",
    f"{UNKNOWN}.x | unique | list",
    f"range({UNKNOWN}.n) | list",
    f"{UNKNOWN}.x is sameas 1",
    f"{UNKNOWN}.x | attr('y')",
    f"{UNKNOWN}.x[1:2]",
    f"not {UNKNOWN}.x",
    f"-{UNKNOWN}.x",
    f"'ab' * {UNKNOWN}.x",
    f"'x'.replace('x', {UNKNOWN}.x)",
    f"{UNKNOWN}.x | to_yaml",
    f"{UNKNOWN}.x | b64encode",
    f"[1, 2] | stages({UNKNOWN}.x)",
    f"[{UNKNOWN}.x] | select('defined') | list",
    f"inputs.map[{UNKNOWN}.x]",
    f"{{{UNKNOWN}.x: 1}}",
    UNKNOWN,
]


@pytest.mark.parametrize("source", UNKNOWN_RESULTS)
def test_unknown_stays_unknown(source: str) -> None:
    for value in (
        evaluate(source, NAMES),
        render("{{ " + source + " }}", NAMES),
        render("x {{ " + source + " }}", NAMES),
    ):
        assert isinstance(value, Unknown)
        assert "later ran" in value.why
    assert decide(evaluate(source, NAMES)) == "maybe"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (f"inputs.flag or {UNKNOWN}.b", True),
        (f"inputs.off and {UNKNOWN}.b", False),
        (f"'a' if inputs.flag else {UNKNOWN}.x", "a"),
        (f"[1, {UNKNOWN}.n] | length", 2),
        (f"[1, {UNKNOWN}.n][0]", 1),
        ("steps.later.status == 'pending'", True),
    ],
)
def test_what_does_not_need_the_unknown_is_known(source: str, value: Any) -> None:
    assert evaluate(source, NAMES) == value


def test_an_unknown_inside_data_stays_there() -> None:
    value = render({"a": [1, "{{ steps.later.outputs.x }}"], "b": "{{ [2, steps.later.outputs.x] }}"}, NAMES)
    assert value["a"][0] == 1
    assert isinstance(value["a"][1], Unknown)
    assert isinstance(value["b"][1], Unknown)
    text = render("img {{ steps.build.outputs.image }} by {{ steps.later.outputs.x }}", NAMES)
    assert repr(text) == "img app:1 by <unknown until later ran>"


@pytest.mark.parametrize(
    ("source", "bare", "paths"),
    [
        ("{{ steps.x.outputs.value }}", False, {("steps", "x", "outputs", "value")}),
        ("a {{ inputs.env }} {{ vars['ns'] }}", False, {("inputs", "env"), ("vars", "ns")}),
        ("steps[inputs.name].outputs", True, {("steps",), ("inputs", "name")}),
        ("steps.x.outputs.rows[0].name", True, {("steps", "x", "outputs", "rows")}),
        ("steps.x.outputs.items() | map(attribute='a') | list", True, {("steps", "x", "outputs")}),
        ("steps | dictsort", True, {("steps",)}),
        ("range(inputs.n)", True, {("inputs", "n")}),
        ("x if y else z", True, {("x",), ("y",), ("z",)}),
        ("result.ok", True, {("result", "ok")}),
        ("1 + 1", True, set()),
    ],
)
def test_analysis_names_every_path(source: str, bare: bool, paths: set[tuple[str, ...]]) -> None:
    analysis = analyse(source, bare)
    assert analysis.problem is None
    assert set(analysis.paths) == paths


@pytest.mark.parametrize(
    ("source", "bare", "says", "offset"),
    [
        ("{{ inputs.x", False, "never closed", 0),
        ("ab {{ }}", False, "no expression", 3),
        ("ab {{ x) }}", False, "unexpected ')'", 7),
        ("a {{ b | uper }}", False, "did you mean `upper`?", 9),
        ("b is definde", True, "did you mean `defined`?", 5),
        ("inputs.x = 3", True, "==", 0),
        ("a && b", True, "`and`", 0),
        ("{{ inputs.x }}", True, "without `{{ }}`", 0),
        ("", True, "no expression", 0),
        ("a b", True, "unexpected 'b'", 0),
        ("{{ a, b }}", False, "unexpected ','", 2),
    ],
)
def test_analysis_finds_what_is_wrong(source: str, bare: bool, says: str, offset: int) -> None:
    analysis = analyse(source, bare)
    assert says in (analysis.problem or "")
    assert analysis.offset == offset


def test_template_files_use_all_of_jinja() -> None:
    template = (
        "# {{ inputs.env }}\n"
        "{% for x in inputs.list if x > 1 %}- {{ x }} {{ loop.first }}\n{% endfor %}"
        "{# gone #}{{ inputs.flag }}\n"
    )
    assert render_file(template, NAMES) == "# production\n- 2 true\n- 3 false\ntrue\n"
    assert render_file("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(true) }}", NAMES) == "<1><true>"
    assert render_file("{% set y = inputs.evil %}{{ y }}", NAMES) == "{{ inputs.env }}"
    assert isinstance(render_file("{% if steps.later.outputs.x %}a{% endif %}", NAMES), Unknown)
    assert isinstance(render_file("a {{ steps.later.outputs.x }}", NAMES), Unknown)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a\n{{ inputs.zzz }}", "line 2"),
        ("a\n{% if %}", "line 2"),
        ("{% include 'x' %}", "line 1"),
        ("a\n\n{{ 1 / 0 }}", "line 3: division by zero"),
        ("{{ inputs.none }}", "null"),
    ],
)
def test_errors_of_template_files_name_the_line(template: str, says: str) -> None:
    with pytest.raises(ExpressionError, match=says):
        render_file(template, NAMES)


def test_plain_paths_need_no_jinja() -> None:
    program = (
        "import sys\n"
        "from runbook.interpreter.expressions import render, evaluate\n"
        "names = {'inputs': {'a': 1, 'b': 'x'}}\n"
        "data = {'x': '{{ inputs.a }}', 'y': 'v{{ inputs.a }} {{inputs.b}}', 'z': 'text'}\n"
        "assert render(data, names) == {'x': 1, 'y': 'v1 x', 'z': 'text'}\n"
        "assert evaluate('inputs.a', names) == 1\n"
        "assert evaluate(\"inputs.b == 'x' and not inputs.a != 1\", names) is True\n"
        "print('jinja2' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n"


operands = st.sampled_from(
    [
        "a",
        "b",
        "n",
        "m.x",
        "m.y",
        "missing",
        "m.missing",
        "u",
        "u.x",
        "text",
        "none_",
        "true",
        "false",
        "none",
        "0",
        "1",
        "2.5",
        "-1",
        "'x'",
        '"y"',
        "''",
        "x",
        "l",
        "m.items",
    ]
)


def _plain_sources() -> st.SearchStrategy[str]:
    leaf = st.one_of(
        operands,
        st.tuples(operands, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), operands).map(" ".join),
        st.tuples(operands, st.sampled_from(["is defined", "is not defined", "is none", "is not none"])).map(" ".join),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
            inner.map("not {}".format),
            inner.map("({})".format),
        ),
        max_leaves=5,
    )


@given(_plain_sources())
def test_plain_expressions_mean_what_jinja_says(source: str) -> None:
    names: dict[str, Any] = {
        "a": True, "b": False, "n": 2, "m": {"x": 1, "y": "y"}, "u": Unknown("later"),
        "text": "x", "none_": None, "l": [1], "x": {},
    }  # fmt: skip
    plain = plain_expression(source)
    if plain is None:
        return

    def outcome(compute: Any) -> Any:
        try:
            value = compute(names)
        except Unknown.Reached:
            return "unknown"
        except ExpressionError:
            return "error"
        return "unknown" if isinstance(value, Unknown) else (type(value), value)

    try:
        quick = outcome(plain)
    except NotPlainError:
        return
    assert quick == outcome(compiled(source))


@pytest.mark.parametrize(
    "source",
    [
        "a < b < c",
        "a.0",
        "a in b",
        "a | upper",
        "a[0]",
        "a + b",
        "'a' 'b'",
        "a if b else c",
        "range",
        "007",
        "a . b",
        "1_0",
        "x.y .z",
    ],
)
def test_what_is_not_plain_is_left_to_jinja(source: str) -> None:
    assert plain_expression(source) is None
