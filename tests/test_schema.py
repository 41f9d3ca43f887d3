"""One form, three readers: the compiled check, `jsonschema`, and the document that editors read. They agree."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.interpreter import schema
from runbook.interpreter.catalogue import ActionSpec
from runbook.interpreter.editor import assemble
from runbook.interpreter.form import compile_schema
from runbook.interpreter.source import parse
from runbook.interpreter.times import parse_duration

from .catalogue_toy import catalogue
from .mutations import KEYS, VALUES

CASES = Path(__file__).parent / "cases"
SHIPPED = Path(__file__).parent.parent / "playbooks"
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("duration", raises=ValueError)
def _duration(value: object) -> bool:
    return not isinstance(value, str) or parse_duration(value) < 1e9


def by_jsonschema(document: dict[str, Any], data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(document, format_checker=FORMATS).is_valid(data))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "30s", "5", "B-c", "12%", "2xx"])
)
DATA = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "name", "kind"]), inner, max_size=3)
    ),
    max_leaves=8,
)
TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])


def _schemas(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(st.sampled_from(["a", "30s", 1, True, None, 0]), min_size=1, max_size=3),
            "properties": st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=2),
            "required": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "minItems": st.integers(0, 2),
            "anyOf": st.lists(inner, min_size=1, max_size=3),
            "minimum": st.integers(-3, 3),
            "maximum": st.integers(3, 100),
            "pattern": st.sampled_from(["^a", r"^\d+$", "s$"]),
            "propertyNames": st.just({"pattern": "^[ab]$"}),
        },
    )


SCHEMAS = st.recursive(st.just({}) | TYPES.map(lambda kind: {"type": kind}), _schemas, max_leaves=5)


@given(SCHEMAS, DATA)
def test_the_compiled_check_and_jsonschema_agree_on_every_schema(document: dict[str, Any], data: Any) -> None:
    if isinstance(data, float) and data.is_integer():
        data = data + 0.5  # 1.0 is in the enum [1] for jsonschema
    ours = not compile_schema(document, {}, templates=False)(data)
    assert ours == by_jsonschema(document, data)


def test_a_plug_in_may_use_any_keyword() -> None:
    body = {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 2, "not": {"const": "no"}}},
        "additionalProperties": False,
    }
    spec = ActionSpec("mine.do", "read", body)
    assert schema.check_with(spec, {"a": "yes"}) == []
    assert [one.path for one in schema.check_with(spec, {"a": "no"})] == [("a",)]
    assert [one.rule for one in schema.check_with(spec, {"b": 1})] == ["unknown-key"]
    assert schema.check_with(spec, {"a": "{{ steps.x.outputs.y }}"}) == []


DOCUMENT = assemble(catalogue())
FAMILIES = {spec.family for spec in catalogue().values()}


def steps_of(data: Any) -> list[Any]:
    found = []
    if isinstance(data, dict):
        found += [data] if "id" in data else []
        for value in data.values():
            found += steps_of(value)
    elif isinstance(data, list):
        for item in data:
            found += steps_of(item)
    return found


def in_step() -> dict[str, Any]:
    return {**DOCUMENT, "type": "object", "properties": {"step": {"$ref": "#/$defs/step"}}, "required": []}


def own_form_fine(step: Any) -> bool:
    """By our check: the step, the steps inside it, and the parameters of its actions without defaults."""
    if not isinstance(step, dict):
        return False
    kind, findings = schema.check_step(step)
    if findings or kind is None:
        return False
    if kind == "action":
        spec = catalogue().get(step["action"])
        given = step.get("with", {})
        if spec is None:  # an editor may know fewer families than the plug-ins bring
            foreign = re.match(r"^(\w+)\.\w+$", step["action"])
            return foreign is not None and foreign[1] not in FAMILIES and all(map(own_form_fine, handlers(step)))
        return all(map(own_form_fine, handlers(step))) and not [
            one for one in schema.check_with(spec, given) if one.rule != "missing-key"
        ]
    inner: list[Any] = []
    for key in ("steps", "parallel", "fallback"):
        inner += step.get(key, [])
    inner += [one for branch in step.get("choose", ()) for one in branch["steps"]]
    return all(own_form_fine(one) for one in inner) and all(own_form_fine(one) for one in handlers(step))


def handlers(step: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for key in ("on_failure", "finally", "undo"):
        if isinstance(step.get(key), dict):
            found += step[key].get("steps", [])
    return found


PLAYBOOKS = [
    path.read_text(encoding="utf-8")
    for path in [
        *sorted(SHIPPED.glob("*.yaml")),
        *sorted(CASES.glob("bad-[e-u]*/*.yaml")),
        *sorted(CASES.glob("every-key/*.yaml")),
    ]
]
EXAMPLES = [step for text in PLAYBOOKS for step in steps_of(parse(text, "f").data)]


def _changed(step: Any, dice: random.Random) -> Any:
    step = copy.deepcopy(step)
    places = [one for one in _containers(step) if one]
    for _ in range(dice.choice((0, 1, 1, 2))):
        holder = dice.choice(places)
        if isinstance(holder, dict):
            key = dice.choice(list(holder))
            if dice.random() < 0.3:
                value = holder.pop(key)
                holder[dice.choice(KEYS)] = value
                if not holder:
                    places.remove(holder)
                continue
            holder[key] = parse(dice.choice(VALUES), "v").data
        else:
            holder[dice.randrange(len(holder))] = parse(dice.choice(VALUES), "v").data
        places = [one for one in _containers(step) if one]
    return step


def _containers(data: Any) -> list[Any]:
    found = []
    if isinstance(data, dict | list):
        found.append(data)
        for value in data.values() if isinstance(data, dict) else data:
            found += _containers(value)
    return found


def leaves(error: jsonschema.ValidationError) -> list[jsonschema.ValidationError]:
    return [leaf for one in error.context for leaf in leaves(one)] if error.context else [error]


def missing_parameter(error: jsonschema.ValidationError) -> bool:
    """A required parameter, or `with` itself: `defaults.with` may give it, which no editor knows."""
    return error.validator == "required" and ("with" in error.absolute_path or error.message.startswith("'with'"))


@pytest.mark.slow
def test_editors_and_validation_agree_on_steps() -> None:
    validator = jsonschema.Draft202012Validator(in_step(), format_checker=FORMATS)
    dice = random.Random(7)
    verdicts = {True: 0, False: 0}
    for number in range(1500):
        step = _changed(EXAMPLES[number % len(EXAMPLES)], dice)
        errors = list(validator.iter_errors({"step": step}))
        if any(missing_parameter(leaf) for one in errors for leaf in leaves(one)):
            continue
        ours = own_form_fine(step)
        assert ours == (not errors), (step, [one.message for one in errors][:3])
        verdicts[ours] += 1
    assert min(verdicts.values()) > 100


def branches(step: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the key that makes the kind: the step's own keys."""
    found = {}
    while "if" in step:
        found[step["if"]["required"][0]] = step["then"]
        step = step["else"]
    return {**found, "": step}


def test_the_document_is_a_schema_and_describes_every_parameter() -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    kinds = branches(DOCUMENT["$defs"]["step"])
    assert kinds.keys() == {*schema.KIND_KEYS, ""}
    for name, spec in catalogue().items():
        body = DOCUMENT["$defs"][name]
        assert spec.description in body["description"]
        assert body["properties"].keys() == spec.parameters["properties"].keys()
        assert all(one["description"] for one in body["properties"].values())
        patterns = [one["if"]["properties"]["action"]["pattern"] for one in kinds["action"]["allOf"]]
        cases = [
            one for one, pattern in zip(kinds["action"]["allOf"], patterns, strict=True) if re.search(pattern, name)
        ]
        assert len(cases) == 1
        assert cases[0]["then"]["properties"]["with"] == {"$ref": f"#/$defs/{name}"}
    for keys in (DOCUMENT, DOCUMENT["$defs"]["step"], *kinds.values()):
        for key, body in keys["properties"].items():
            assert body is True or body.get("description") or "$ref" in body or body.get("doNotSuggest"), key
    assert DOCUMENT["$defs"]["action"]["description"]


def test_the_shipped_playbooks_are_fine_in_an_editor() -> None:
    document = json.loads((SHIPPED.parent / "schemas" / "playbook.schema.json").read_text(encoding="utf-8"))
    for path in sorted(SHIPPED.glob("*.yaml")):
        data = parse(path.read_text(encoding="utf-8"), str(path)).data
        errors = list(jsonschema.Draft202012Validator(document, format_checker=FORMATS).iter_errors(data))
        assert errors == [], (path, errors[:1])
