"""Inputs, outputs, scope, expressions, secrets and the scalars of YAML (docs/language.md)."""

# ruff: noqa: E501  # steps in one line each read as a table

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.load import load
from tests.language import Exit, Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.at(tmp_path)


def problems(room: Room, text: str, **files: str) -> list[str]:
    """What validation says, message and hint."""
    texts = {"p.yaml": text if text.startswith("runbook:") else f"runbook: 1\nname: p\n{text}"}
    texts |= {f"{name}.yaml": f"runbook: 1\n{body}" for name, body in files.items()}

    def read(name: str) -> str:
        if name not in texts:
            raise FileNotFoundError(name)
        return texts[name]

    found = load("p.yaml", read, room.registry.catalogue()).problems
    return [
        f"{problem.message} ({problem.expected}; {problem.hint})" for problem in found if problem.severity == "error"
    ]


def computed(room: Room, value: str, head: str = "", **inputs: Any) -> Any:
    """What a value of flow.set becomes. `value`: as YAML writes it."""
    played = room.played(
        f"{head}\nsteps:\n  - {{id: v, action: flow.set, with: {{values: {{v: {value}}}}}}}\n", inputs=inputs
    )
    assert played.exit == Exit.SUCCEEDED, played.error()
    return played.values("v")["v"]


# --- the scalars of YAML are JSON's

SCALARS: dict[str, Any] = {
    "true": True, "false": False, "null": None, "3": 3, "-3": -3, "0.5": 0.5, "1e3": 1000.0,
    "on": "on", "off": "off", "yes": "yes", "no": "no", "y": "y", "True": "True", "NULL": "NULL", "~": "~",
    "0777": "0777", "0o17": "0o17", "0x1F": "0x1F", "1_000": "1_000", "1:30": "1:30", ".5": ".5", "+1": "+1",
    "2024-01-02": "2024-01-02", "=": "=", "'3'": "3", '"true"': "true", ".inf": ".inf", ".nan": ".nan",
}  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS)
def test_plain_scalars_are_jsons_and_everything_else_is_text(scalar: str, room: Room) -> None:
    value = computed(room, scalar)
    assert (value, type(value)) == (SCALARS[scalar], type(SCALARS[scalar]))


# what is not YAML here: text -> what the message says
NOT_YAML = {
    "steps: []\nsteps: []\n": "twice",
    "vars: {a: &x {b: 1}, c: {<<: *x}}\nsteps: [{id: a, action: toy.get}]\n": "merge",
    "vars: {a: !python/object {}}\nsteps: [{id: a, action: toy.get}]\n": "tag",
    "vars: {a: {{ inputs.x }}}\nsteps: [{id: a, action: toy.get}]\n": "quote this value",
    "vars: {a: 1}\nsteps: [{id: a, action: toy.get, name: {{ vars.a }}}]\n": "quote this value",
    "steps: [{id: a, action: toy.get, when: [a, b] == x}]\n": "quote this value",
    "timeout: 30\nsteps: [{id: a, action: toy.get}]\n": "30s",
    "steps: [{id: a, action: toy.get, timeuot: 3s}]\n": "timeout",
    "steps: [{id: A, action: toy.get}]\n": "lower-case letters",
    "steps: [{id: a, action: toy.get}, {id: a, action: toy.get}]\n": "a",
}


@pytest.mark.parametrize("text", NOT_YAML)
def test_what_would_mislead_is_an_error_with_a_hint(text: str, room: Room) -> None:
    said = problems(room, text)
    assert said
    assert any(NOT_YAML[text].lower() in one.lower() for one in said), said


# --- inputs

# declared -> given -> what `{{ inputs.x }}` is
INPUTS: list[tuple[str, Any, Any]] = [
    ("{type: string}", "a", "a"),
    ("{type: string, default: d}", None, "d"),
    ("{type: string, default: null}", None, None),
    ("{type: string, default: {from_env: WHERE}}", None, "here"),
    ("{type: string, enum: [a, b]}", "b", "b"),
    ("{type: string, pattern: 'v[0-9]+'}", "v12", "v12"),
    ("{type: integer, minimum: 1, maximum: 3}", 3, 3),
    ("{type: number}", 0.5, 0.5),
    ("{type: boolean}", True, True),
    ("{type: list, items: {type: integer}}", [1, 2], [1, 2]),
    ("{type: map}", {"a": {"b": 1}}, {"a": {"b": 1}}),
]


@pytest.mark.parametrize(("declared", "given", "value"), INPUTS)
def test_inputs_are_typed(declared: str, given: Any, value: Any, tmp_path: Path) -> None:
    room = Room.at(tmp_path, WHERE="here")
    more = {} if given is None else {"x": given}
    assert computed(room, '"{{ inputs.x }}"', f"inputs: {{x: {declared}}}", **more) == value


def test_durations_count_seconds_and_moments_need_an_offset(room: Room) -> None:
    head = "inputs: {d: {type: duration, default: 1h30m}, t: {type: timestamp, default: '2026-01-02T03:04:05Z'}}"
    assert computed(room, '"{{ inputs.d }} is {{ inputs.d / 60 }} minutes"', head) == "1h30m is 90.0 minutes"
    assert computed(room, '"{{ inputs.t }}"', head) is not None
    assert computed(room, '"at {{ inputs.t }}"', head) == "at 2026-01-02T03:04:05Z"
    said = problems(
        room, "inputs: {t: {type: timestamp, default: '2026-01-02T03:04:05'}}\nsteps: [{id: a, action: toy.get}]\n"
    )
    assert "offset" in said[0]


def test_vars_are_computed_once_top_to_bottom_before_the_first_step(room: Room) -> None:
    assert computed(room, '"{{ vars.b }}"', 'vars: {a: 2, b: "{{ vars.a * 21 }}"}') == 42
    assert "later" in problems(room, 'vars: {a: "{{ vars.b }}", b: 1}\nsteps: [{id: a, action: toy.get}]\n')[0]
    said = problems(room, 'vars: {a: "{{ steps.a.status }}"}\nsteps: [{id: a, action: toy.get}]\n')
    assert "no step has run" in said[0]


def test_imports_are_merged_by_name_first_and_evaluated_after(room: Room) -> None:
    """What stands here wins, and what is computed there sees it."""
    played = room.played(
        'import: [c.yaml]\nvars: {who: here}\nsteps: [{id: v, action: flow.set, with: {values: {v: "{{ vars.text }}", i: "{{ inputs.n }}"}}}]\n',
        files={
            "c.yaml": 'runbook: 1\ninputs: {n: {type: integer, default: 3}}\nvars: {who: there, text: "it is {{ vars.who }}"}\n'
        },
    )
    assert played.values("v") == {"v": "it is here", "i": 3}


# --- expressions

# template -> its value, its type kept; `vars` below
VARS = "vars: {n: 3, yes: true, none: null, items: {items: 7, keys: k}, list: [1, {a: b}], text: \"a\\n\", hostile: \"{{ '{{' }} inputs {{ '}}' }}\", d: \"{{ '90s' | duration }}\"}"
VALUES: list[tuple[str, Any]] = [
    ('"{{ vars.n }}"', 3),
    ('"  {{ vars.n }}\\n"', 3),  # white space around it or not
    ('"{{ vars.n }} "', 3),
    ('"{{ vars.n }}{{ vars.n }}"', "33"),  # text, never read back as a literal
    ('"{{ vars.n }}."', "3."),
    ('"{{ vars.none }}"', None),
    ('"{{ vars.yes }}"', True),
    ('"is {{ vars.yes }}"', "is true"),
    ('"is {{ vars.list }}"', 'is [1,{"a":"b"}]'),
    ('"is {{ vars.text }}"', "is a\n"),  # a last newline stays
    ('"{{ vars.items.items }}"', 7),  # the key, not the method
    ('"{{ vars.items.keys }}"', "k"),
    ("\"{{ '1' }}{{ '2' }}\"", "12"),
    ("\"{{ '[1, 2]' }}\"", "[1, 2]"),
    ('"{% if true %}x{% endif %}"', "{% if true %}x{% endif %}"),
    ('"{# no comment #}"', "{# no comment #}"),
    ('"{{ vars.hostile }}"', "{{ inputs }}"),  # data is never code
    ('"<{{ vars.hostile }}>"', "<{{ inputs }}>"),
    ('"{{ vars.hostile ~ vars.hostile }}"', "{{ inputs }}{{ inputs }}"),
    ('"{{ vars.missing_too if false else 1 }}"', 1),
    ('"{{ inputs.never is defined }}"', False),
    ('"{{ inputs.never | default(4) }}"', 4),
    ('{"{{ vars.n }}": 1}', {"{{ vars.n }}": 1}),  # keys are not templates
    ('["{{ vars.n }}", x]', [3, "x"]),
    ('"{{ range(3) | list }}"', [0, 1, 2]),
    ('"{{ dict(a=1) }}"', {"a": 1}),
    ('"{{ vars.d > 80 }}"', True),
    ('"{{ vars.d }} or {{ 3700 | human_duration }}"', None),
]  # fmt: skip


@pytest.mark.parametrize(("template", "value"), VALUES)
def test_templates(template: str, value: Any, room: Room) -> None:
    if "vars.missing_too" in template or "inputs.never" in template:
        head = f"{VARS[:-1]}, missing_too: 1}}\ninputs: {{never: {{type: string, default: null}}}}"
        if "never" in template:
            value = True if "defined" in template else None
    else:
        head = VARS
    found = computed(room, template, head)
    if "human_duration" in template:
        assert found.startswith("90s or 1h")
        return
    assert (found, type(found)) == (value, type(value))


FILTERS: list[tuple[str, Any]] = [
    ("'aGk=' | b64decode", "hi"),
    ("'hi' | b64encode", "aGk="),
    ("'[1]' | from_json", [1]),
    ("[1, 'a'] | to_json", '[1,"a"]'),
    ("'a: [1]' | from_yaml", {"a": [1]}),
    ("('a: [1]' | from_yaml) | to_yaml", "a:\n  - 1\n"),
    ("('2m' | duration) / 60", 2.0),
    ("90 | human_duration", "1m 30s"),
    ("['a', 'b', 'c', 'd'] | stages(1, '50%', '100%')", [["a"], ["b"], ["c", "d"]]),
    ("'v12.3' | regex_search('[0-9]+')", "12"),
    ("'/a/b.txt' | basename", "b.txt"),
    ("'/a/b.txt' | dirname", "/a"),
    ('"it\'s" | shell_quote', "'it'\"'\"'s'"),
    ("'my\"db' | sql_identifier", '"my""db"'),
    ('"o\'clock" | sql_literal', "'o''clock'"),
    ("'a\"b' | promql_quote", '"a\\"b"'),
    ("('2026-01-02T03:04:05Z') | strftime('%H:%M')", "03:04"),
]


@pytest.mark.parametrize(("expression", "value"), FILTERS)
def test_the_languages_own_filters(expression: str, value: Any, room: Room) -> None:
    quoted = "|-\n            {{ " + expression + " }}"
    played = room.played(f"steps:\n  - id: v\n    action: flow.set\n    with:\n      values:\n        v: {quoted}\n")
    assert played.exit == Exit.SUCCEEDED, played.error()
    assert played.values("v")["v"] == value


# what does not work when it runs: template -> what the error says
ERRORS: dict[str, str] = {
    '"text {{ vars.none }}"': "null",
    '"{{ vars.items.nope }}"': "vars.items.nope",
    '"{{ vars.n.x }}"': "vars.n.x",
    '"{{ vars.n + vars.text }}"': "cannot be combined",
    '"{{ 1 / 0 }}"': "division by zero",
    '"{{ vars.list[7] }}"': "7",
}


@pytest.mark.parametrize("template", ERRORS)
def test_what_has_no_value_is_the_steps_failure(template: str, room: Room) -> None:
    played = room.played(f"{VARS}\nsteps: [{{id: v, action: flow.set, with: {{values: {{v: {template}}}}}}}]\n")
    assert (played.exit, played.step("v")["error"]["kind"]) == (Exit.FAILED, "expression")
    assert ERRORS[template] in played.error("v")


# what validation says before anything runs: step keys -> words
STATIC: dict[str, str] = {
    'with: {value: "{{ now() }}"}': "clock",
    'with: {value: "{{ [1, 2] | random }}"}': "random",
    'with: {value: "{{ cycler(1) }}"}': "cycler",
    'with: {value: "{{ lipsum() }}"}': "lipsum",
    'with: {value: "{{ inputs.typo }}"}': "typo",
    'with: {value: "{{ steps.a.outputs }}"}': "itself",
    'with: {value: "{{ steps.nobody.status }}"}': "nobody",
    'with: {value: "{{ result.x }}"}': "result",
    'with: {value: "{{ loop.index }}"}': "loop",
    'when: "{{ 1 == 1 }}"': "without `{{ }}`",
    'until: "{{ 1 == 1 }}"': "without `{{ }}`",
    "retry: {max_attempts: 2}, until: result.value": "retry",
    "for: 3s": "until",
    "background: true, temporary: true": "temporary",
}


@pytest.mark.parametrize("keys", STATIC)
def test_what_validation_says(keys: str, room: Room) -> None:
    said = problems(room, f"steps: [{{id: a, action: toy.get, {keys}}}]\n")
    assert any(STATIC[keys] in one for one in said), said


def test_facts_of_the_run(room: Room) -> None:
    played = room.played(
        """
steps:
  - {id: w, action: flow.wait, with: {for: 150ms}}
  - {id: v, action: flow.set, with: {values: {run: "{{ run }}", late: "{{ run.elapsed > 0.1 }}", ago: "{{ run.started_at }}", mine: "{{ steps.w.started_at >= run.started_at }}"}}}
""",
        initiator="ann",
        parent="caller",
        trigger={"id": "t"},
    )
    values = played.values("v")
    run = values["run"]
    assert set(run) == {"id", "name", "elapsed", "started_at", "initiator", "parent", "trigger"}
    assert (run["id"], run["name"], run["initiator"], run["parent"], run["trigger"]) == (
        played.ended.run_id, "p", "ann", "caller", {"id": "t"},
    )  # fmt: skip
    assert (values["late"], values["mine"]) == (True, True)
    nobody = computed(room, '"{{ [run.parent, run.trigger] }}"')
    assert nobody == [None, None]


# --- `failure`

SHOW = '{id: show, action: flow.set, with: {values: {f: "{{ failure }}"}}}'
FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "a step is to blame": (
        f"steps: [{{id: b, steps: [{{id: bad, action: toy.note, with: {{fail: broken}}}}]}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "failed", "step": "bad", "path": "b/bad", "undo": "none"},
    ),
    "nothing failed: kind none, still a map": (
        f"steps: [{{id: a, action: toy.get}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "none", "step": "", "path": "", "undo": "none", "others": []},
    ),
    "an action's own time-out": (
        f"steps: [{{id: a, action: toy.polite, undo: none, timeout: 100ms}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "timed_out", "step": "a", "path": "a"},
    ),
    "a box ended: no step is to blame": (
        f"timeout: 100ms\nsteps: [{{id: a, action: flow.wait, with: {{for: 9s}}}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "timed_out", "step": "", "path": ""},
    ),
    "a block's box ended": (
        f"steps: [{{id: b, timeout: 100ms, steps: [{{id: a, action: flow.wait, with: {{for: 9s}}}}]}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "timed_out", "step": "", "path": ""},
    ),
    "an assertion refused the run": (
        f"steps: [{{id: a, action: flow.assert, with: {{that: false, message: no}}}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "failed", "step": "a"},
    ),
    "after a successful undo": (
        f"on_failure: {{undo: true}}\nsteps: [{{id: s, action: toy.set, with: {{name: x, value: 1}}}}, {{id: a, action: toy.get, fail_when: 'true'}}]\nfinally: {{steps: [{SHOW}]}}",
        {"kind": "failed", "step": "a", "undo": "succeeded"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_always_a_map(name: str, room: Room) -> None:
    text, wanted = FAILURES[name]
    failure = room.played(text).values("!finally/show")["f"]
    assert set(failure) == {"kind", "step", "path", "error", "undo", "others"}
    assert set(failure["error"]) == {"message", "kind", "temporary", "attempt"}
    assert {key: failure[key] for key in wanted} == wanted
    if wanted["kind"] == "timed_out":
        assert "time" in failure["error"]["message"]


def test_failure_stands_in_every_step(room: Room) -> None:
    assert computed(room, '"{{ failure.kind }}/{{ failure.error.message }}"') == "none/"


def test_a_cancel_is_seen_by_handlers(room: Room) -> None:
    played = room.played(
        f"steps: [{{id: w, action: flow.wait, with: {{for: 60s}}}}]\nfinally: {{steps: [{SHOW}]}}", cancels={"w": 0.05}
    )
    failure = played.values("!finally/show")["f"]
    assert (failure["kind"], failure["step"], failure["path"]) == ("cancelled", "", "")
    assert failure["error"]["message"]


# --- outputs


def test_step_outputs_stand_beside_the_actions_own_and_their_failure_is_the_steps(room: Room) -> None:
    played = room.played("""
steps:
  - {id: a, action: toy.get, with: {value: 4}, outputs: {twice: result.value * 2}}
  - {id: b, action: toy.set, with: {name: x, value: 1}, outputs: {no: result.nothing.at.all}}
on_failure: {undo: true}
""")
    assert played.values("a") == {"value": 4, "twice": 8}
    assert (played.steps["b"], list(played.done)) == ("failed", ["x=1", "x=None"])


def test_results_of_a_foreach_and_counts_of_every_block(room: Room) -> None:
    played = room.played("""
steps:
  - id: each
    keep_going: 1
    foreach: {items: [u, v], as: it}
    steps:
      - {id: get, action: toy.get, with: {value: "{{ it }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"}, fail_when: "it == 'v'"}
    outputs: {got: "steps.get.outputs.value ~ it ~ loop.index"}
  - {id: after, action: flow.set, with: {values: {got: "{{ steps.each.outputs.results[0].outputs.got }}"}}}
""")
    outputs = played.values("each")
    assert {"total", "succeeded", "failed", "skipped", "failures", "results"} <= set(outputs)
    first, second = outputs["results"]
    assert set(first) == {"item", "index", "status", "error", "outputs"}
    assert (first["item"], first["index"], first["status"], first["error"]) == ("u", 0, "succeeded", None)
    assert (second["status"], second["error"]["kind"]) == ("failed", "permanent")
    assert played.values("after") == {"got": "u1truefalse2u1"}


def test_a_run_that_failed_still_gives_its_outputs_and_null_where_there_is_none(room: Room) -> None:
    played = room.played(
        """
steps:
  - {id: a, action: toy.get, with: {value: 4}}
  - {id: bad, action: toy.note, with: {fail: broken}}
  - {id: c, action: toy.get, with: {value: 5}}
outputs: {a: "{{ steps.a.outputs.value }}", c: "{{ steps.c.outputs.value }}", rc: "{{ steps.bad.outputs.rc }}"}
""".replace(', rc: "{{ steps.bad.outputs.rc }}"', "")
    )
    assert (played.exit, played.outputs) == (Exit.FAILED, {"a": 4, "c": None})


# --- secrets


def test_masked_text_never_comes_back_to_life(tmp_path: Path) -> None:
    """What a step says about a secret is a mask, and the mask handed to a parameter that takes secrets is only text."""
    room = Room.at(tmp_path, TOKEN="hunter2-hunter2")
    played = room.played("""
secrets: {token: {env: TOKEN}}
steps:
  - {id: a, action: toy.note, with: {name: a, text: "{{ secrets.token }}", fail: said}, on_failure: continue}
  - {id: b, action: shell.run, with: {command: "printf %s \\"$SAID\\" | wc -c", env: {SAID: "{{ steps.a.error.message }}"}}, effect: read}
  - {id: c, action: shell.run, with: {command: "printf %s \\"$SAID\\"", env: {SAID: "‹secret:token›"}}, effect: read}
  - {id: d, action: shell.run, with: {command: "printf %s \\"$SAID\\" | wc -c", env: {SAID: "{{ secrets.token }}"}}, effect: read}
""")
    assert played.error("a") == "said ‹secret:token›"
    assert int(played.values("b")["stdout"]) == len("said ‹secret:token›".encode())
    assert played.values("c")["stdout"] == "‹secret:token›"
    assert int(played.values("d")["stdout"]) == len("hunter2-hunter2")


def test_an_absent_optional_secret_is_null_and_not_defined(room: Room) -> None:
    played = room.played("""
secrets: {hook: {env: NOT_THERE, optional: true}}
steps:
  - {id: there, when: secrets.hook is defined, action: toy.note, with: {name: there}}
  - {id: a, action: toy.note, with: {name: a, text: "{{ secrets.hook }}"}}
""")
    assert (played.exit, played.steps["there"], played.values("a")["text"]) == (
        Exit.SUCCEEDED, "skipped", "",
    )  # fmt: skip  # null: as if the parameter were not there


SECRETS: dict[str, bool] = {  # steps -> whether validation lets it pass
    "{id: a, action: toy.note, with: {text: '{{ secrets.token }}'}}": True,
    "{id: a, action: toy.note, with: {text: 'Bearer {{ secrets.token }}'}}": True,
    "{id: a, action: toy.note, with: {text: \"{{ secrets.token if 1 == 1 else 'x' }}\"}}": True,
    "{id: a, when: secrets.token is defined, action: toy.note}": True,
    "{id: a, action: shell.run, with: {command: 'true', env: {T: '{{ secrets.token }}'}}}": True,
    "{id: a, action: shell.run, with: {command: 'true', stdin: '{{ secrets.token }}'}}": True,
    "{id: a, action: toy.note, with: {name: '{{ secrets.token }}'}}": False,
    "{id: a, action: toy.note, with: {text: '{{ secrets.token | upper }}'}}": False,
    "{id: a, action: shell.run, with: {command: 'echo {{ secrets.token }}'}}": False,
    "{id: a, when: \"secrets.token == 'x'\", action: toy.note}": False,
    "{id: a, name: '{{ secrets.token }}', action: toy.note}": False,
    "{id: a, action: flow.set, with: {values: {v: '{{ secrets.token }}'}}}": False,
    "{id: a, action: manual.approve, with: {message: '{{ secrets.token }}'}}": False,
}


@pytest.mark.parametrize("step", SECRETS)
def test_secrets_stand_only_where_a_schema_says(step: str, room: Room) -> None:
    said = problems(room, f"secrets: {{token: {{env: TOKEN}}}}\nsteps: [{step}]\n")
    assert (not said) == SECRETS[step], said
