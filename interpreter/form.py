"""JSON Schema, compiled to closures that say what is wrong in our words.

A playbook of 5,000 steps is checked on every start. `jsonschema` needs 45 ms to be imported and half a millisecond a
step with the whole document, and its errors speak of `anyOf` (docs/decisions/0004-form.md). So the keywords that our
schemas use are compiled here once, and the law in tests/test_schema.py holds this and `jsonschema` to the same verdict.
A schema with other keywords (a plug-in's) is handed to `jsonschema` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runbook.interpreter.findings import FINE, Check, Finding, Findings, did_you_mean, kind_of, shown, unknown_key
from runbook.interpreter.times import parse_duration

LONGEST = 315_360_000.0  # ten years, in seconds: what a clock of the system still takes


_ASSERTS = (
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "minimum",
    "maximum",
)
_MORE = ("exclusiveMinimum", "pattern", "format", "minItems", "minLength", "maxLength", "propertyNames", "$ref")
_SAYS = ("description", "markdownDescription", "default", "title", "examples", "$comment", "deprecated")
_KNOWN = frozenset({*_ASSERTS, *_MORE, *_SAYS})
_NAMES = {
    "object": "a map",
    "array": "a list",
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
MOST = 100  # findings about one map: a file of 50,000 wrong keys is told soon enough
_UNITS_HINT = "a bare number has no unit: write 500ms, 30s, 5m or 1h30m"


def compile_schema(schema: Mapping[str, Any], refs: Mapping[str, Check], *, templates: bool) -> Check:
    """A check for `schema`. `refs` answers `$ref`; with `templates`, text that holds `{{` may stand for any value."""
    if not _understood(schema):
        return _by_jsonschema(schema, templates)
    check = _compile(schema, refs, templates)
    if not templates:
        return check

    def with_templates(value: Any) -> Findings:
        return FINE if type(value) is str and "{{" in value else check(value)

    return with_templates


def describe(schema: Mapping[str, Any]) -> str:
    """What a schema wants, in words: `an integer, at least 0`."""
    if "enum" in schema:
        return "one of " + ", ".join("null" if one is None else str(one) for one in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(describe(one) for one in schema["anyOf"]))
    if "$ref" in schema:
        return str(schema.get("title", "something else"))
    if schema.get("format") == "duration":
        return "a duration (500ms, 30s, 5m, 1h30m)"
    kinds = schema.get("type", [])
    words = " or ".join(_NAMES[one] for one in ([kinds] if isinstance(kinds, str) else kinds)) or "anything"
    if "minimum" in schema:
        words += f", at least {schema['minimum']}"
    if "exclusiveMinimum" in schema:
        words += f", more than {schema['exclusiveMinimum']}"
    if "maximum" in schema:
        words += f", at most {schema['maximum']}"
    if "pattern" in schema and "title" not in schema:
        words += f" that matches {schema['pattern']}"
    return str(schema.get("title", words))


def _understood(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return isinstance(schema, bool)
    if any(key not in _KNOWN and not key.startswith("x-") for key in schema):
        return False
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    inner += [schema[key] for key in ("items", "additionalProperties", "propertyNames") if key in schema]
    return all(_understood(one) for one in inner)


def _compile(schema: Mapping[str, Any], refs: Mapping[str, Check], templates: bool) -> Check:
    if "$ref" in schema:
        return refs[schema["$ref"]]
    checks: list[Check] = []
    if "anyOf" in schema:
        checks.append(_any_of(schema, refs, templates))
    if schema.get("format") == "duration":
        checks.append(_duration(schema))
    elif "type" in schema:
        checks.append(_type(schema))
    for keywords, make in _SIMPLE:
        if keywords & schema.keys():
            checks.append(make(schema))
    if {"properties", "required", "additionalProperties", "propertyNames"} & schema.keys():
        checks.append(_object(schema, refs, templates))
    if {"items", "minItems"} & schema.keys():
        checks.append(_array(schema, refs, templates))
    if not checks:
        return _anything
    if len(checks) == 1:
        return checks[0]

    def every(value: Any) -> Findings:
        for check in checks:
            found = check(value)
            if found:
                return found
        return FINE

    return every


def _anything(_: Any) -> Findings:
    return FINE


_IS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int or (type(value) is float and value.is_integer()),
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
}


def _type(schema: Mapping[str, Any]) -> Check:
    kinds = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    wanted = describe(schema)
    if kinds == ["string"]:
        return lambda value: FINE if type(value) is str else _wrong_type(value, kinds, wanted)
    if kinds == ["object"]:
        return lambda value: FINE if type(value) is dict else _wrong_type(value, kinds, wanted)
    tests = [_IS[kind] for kind in kinds]
    return lambda value: FINE if any(test(value) for test in tests) else _wrong_type(value, kinds, wanted)


def _wrong_type(value: Any, kinds: list[str], wanted: str) -> Findings:
    hint = ""
    if "string" in kinds:
        hint = "quote this value" if isinstance(value, list | dict) else f'quote it: "{shown(value)}"'
    elif kinds == ["boolean"] and str(value).lower() in ("yes", "on", "no", "off"):
        hint = "write true" if str(value).lower() in ("yes", "on") else "write false"
    elif kinds == ["array"]:
        hint = "a list of one: [...]"
    elif isinstance(value, str) and NUMERIC.fullmatch(value) and {"integer", "number"} & {*kinds}:
        hint = "without the quotes"
    return (Finding("{name} is " + kind_of(value), expected=wanted, hint=hint, rule="type"),)


NUMERIC = re.compile(r"-?\d+(\.\d+)?")


def _duration(schema: Mapping[str, Any]) -> Check:
    nullable = "null" in schema.get("type", ())
    wanted = describe(schema)
    usual = {"30s", "5m"}

    def check(value: Any) -> Findings:
        if type(value) is str:
            if value in usual:
                return FINE
            try:
                if parse_duration(value) <= LONGEST:
                    usual.add(value)
                    return FINE
                hint = "ten years is the longest"
            except ValueError:
                hint = _UNITS_HINT if NUMERIC.fullmatch(value) else ""
            return (Finding(f"{{name}} is no duration: {shown(value)}", expected=wanted, hint=hint, rule="duration"),)
        if value is None and nullable:
            return FINE
        hint = _UNITS_HINT if type(value) in (int, float) else ""
        return (Finding("{name} is " + kind_of(value), expected=wanted, hint=hint, rule="duration"),)

    return check


def _one_of(schema: Mapping[str, Any]) -> Check:
    options = list(schema["enum"]) if "enum" in schema else [schema["const"]]
    exact = {(type(one), one) for one in options if not isinstance(one, list | dict)}
    wanted = describe(schema)

    def check(value: Any) -> Findings:
        if not isinstance(value, list | dict) and (type(value), value) in exact:
            return FINE
        if isinstance(value, list | dict):
            return (Finding("{name} is " + kind_of(value), expected=wanted, rule="enum"),)
        hint = did_you_mean(str(value), [str(one) for one in options])
        if any(str(one) == str(value) for one in options):  # it looks the same, and is of another kind
            hint = "without the quotes" if isinstance(value, str) else f'quote it: "{shown(value)}"'
        return (Finding(f"{{name}} cannot be {shown(value)}", expected=wanted, hint=hint, rule="enum"),)

    return check


def _bounds(schema: Mapping[str, Any]) -> Check:
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    wanted = describe(schema)

    def check(value: Any) -> Findings:
        if type(value) in (int, float) and (
            (low is not None and value < low)
            or (high is not None and value > high)
            or (above is not None and value <= above)
        ):
            return (Finding(f"{{name}} is {shown(value)}", expected=wanted, rule="bounds"),)
        return FINE

    return check


def _text(schema: Mapping[str, Any]) -> Check:
    pattern = re.compile(schema.get("pattern", ""))
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    wanted = describe(schema)

    def check(value: Any) -> Findings:
        if type(value) is not str:
            return FINE
        if len(value) < least:
            return (Finding("{name} is empty", expected=wanted, rule="pattern"),)
        if (most is not None and len(value) > most) or pattern.search(value) is None:
            return (Finding(f"{{name}} cannot be `{shown(value)}`", expected=wanted, rule="pattern"),)
        return FINE

    return check


_SIMPLE: tuple[tuple[frozenset[str], Callable[[Mapping[str, Any]], Check]], ...] = (
    (frozenset({"enum", "const"}), _one_of),
    (frozenset({"minimum", "maximum", "exclusiveMinimum"}), _bounds),
    (frozenset({"pattern", "minLength", "maxLength"}), _text),
)


def _object(schema: Mapping[str, Any], refs: Mapping[str, Check], templates: bool) -> Check:
    properties = schema.get("properties", {})
    checks = {name: compile_schema(one, refs, templates=templates) for name, one in properties.items()}
    required = tuple(schema.get("required", ()))
    others = schema.get("additionalProperties", True)
    other = compile_schema(others, refs, templates=templates) if isinstance(others, Mapping) else None
    names = _compile(schema["propertyNames"], refs, False) if "propertyNames" in schema else None

    def check(value: Any) -> Findings:
        if type(value) is not dict:
            return FINE
        found: list[Finding] = []
        for key, item in value.items():
            one = checks.get(key, other)
            if one is not None:
                inner = one(item)
                if inner:
                    found += [finding.under(key) for finding in inner]
            elif others is False:
                found.append(unknown_key(key, properties))
                if len(found) > MOST:
                    return found
            if names is not None:
                inner = names(key)
                if inner:
                    found += [replace(finding.under(key), of_key=True) for finding in inner]
        for key in required:
            if key not in value:
                found.append(missing_key(key, properties.get(key, {})))
        return found

    return check


def missing_key(key: str, schema: Mapping[str, Any]) -> Finding:
    """A key that must be there."""
    what = describe(schema)
    return Finding(f"`{key}` is missing", expected=f"{key}: {what}" if what != "anything" else key, rule="missing-key")


def _array(schema: Mapping[str, Any], refs: Mapping[str, Check], templates: bool) -> Check:
    one = (
        compile_schema(schema["items"], refs, templates=templates) if isinstance(schema.get("items"), Mapping) else None
    )
    least = schema.get("minItems", 0)

    def check(value: Any) -> Findings:
        if type(value) is not list:
            return FINE
        if len(value) < least:
            return (Finding("{name} is empty", expected="at least one item", rule="bounds"),)
        if one is None:
            return FINE
        found: list[Finding] = []
        for index, item in enumerate(value):
            inner = one(item)
            if inner:
                found += [finding.under(index) for finding in inner]
        return found

    return check


def _any_of(schema: Mapping[str, Any], refs: Mapping[str, Check], templates: bool) -> Check:
    options = [(one, compile_schema(one, refs, templates=templates)) for one in schema["anyOf"]]
    wanted = describe(schema)

    def check(value: Any) -> Findings:
        deeper: Findings = FINE
        shallow: list[Finding] = []
        for _, option in options:
            found = option(value)
            if not found:
                return FINE
            if all(finding.path or finding.rule == "missing-key" for finding in found):
                deeper = deeper or found  # the shape was right and a part of it was not: the more useful sentence
            shallow += [finding for finding in found if finding.hint and finding.rule != "type"]
        if deeper:
            return deeper
        hint = next((finding.hint for finding in shallow), "")
        what = kind_of(value) if isinstance(value, list | dict) or value is None else f"`{shown(value)}`"
        return (Finding(f"{{name}} cannot be {what}", expected=wanted, hint=hint, rule="type"),)

    return check


def _by_jsonschema(schema: Mapping[str, Any], templates: bool) -> Check:
    import jsonschema  # only for schemas of others: 45 ms that a start should not pay

    validator = jsonschema.Draft202012Validator(dict(schema))

    def check(value: Any) -> Findings:
        found: list[Finding] = []
        for error in validator.iter_errors(value):
            if templates and isinstance(error.instance, str) and "{{" in error.instance:
                continue
            if error.validator == "additionalProperties" and isinstance(error.instance, dict):
                known = error.schema.get("properties", {})
                extra = [key for key in error.instance if key not in known]
                found += [replace(unknown_key(key, known), path=(*error.absolute_path, key)) for key in extra]
            else:
                found.append(Finding(error.message, path=tuple(error.absolute_path)))
        return found

    return check


__all__ = ["compile_schema", "describe", "did_you_mean", "missing_key"]
