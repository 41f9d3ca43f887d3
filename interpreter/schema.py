"""Data -> problems of form, at their place, with a hint; and the same schema assembled for editors.

Each step is checked by the schema of its own kind, and its `with` by its own action's: no giant if/then is ever
tried, and
an error speaks of the one kind that was meant. `schemas/playbook.schema.json` says the same in one document
(`assemble`), for yaml-language-server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from runbook.interpreter import grammar
from runbook.interpreter.catalogue import ActionSpec, Catalogue
from runbook.interpreter.findings import FINE, Check, Finding, Findings, did_you_mean, kind_of, unknown_key
from runbook.interpreter.form import compile_schema

KIND_KEYS = ("action", "parallel", "fallback", "choose", "playbook", "foreach", "steps")
_KINDS = frozenset(KIND_KEYS)
_FOREACH = frozenset({"foreach", "steps"})


def step_kind(step: Mapping[str, Any]) -> str | None:
    """The one kind of a step; None when it has none or several. `foreach` and `steps` together are a foreach."""
    found = _KINDS & step.keys()
    if len(found) == 1:
        return next(iter(found))
    return "foreach" if found == _FOREACH else None


def check_step(step: Mapping[str, Any]) -> tuple[str | None, Findings]:
    """The kind of a step and what is wrong with its own keys (not with its children's, nor with `with`)."""
    kind = step_kind(step)
    if kind is None:
        return None, (*_kindless(step), *_common_check()(step))
    found = _step_check(kind)(step)
    return kind, tuple(_explained(one, kind) for one in found) if found else FINE


def check_root(data: Mapping[str, Any]) -> Findings:
    """What is wrong with the root's own keys."""
    return _root_check()(data)


def check_with(spec: ActionSpec, parameters: Mapping[str, Any]) -> Findings:
    """What is wrong with an action's parameters, defaults merged in."""
    return _with_check(_Identity(spec))(parameters)


class _Identity:
    """A specification as a key of the cache: by identity, for its schema is a map."""

    __slots__ = ("spec",)

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.spec is self.spec


@cache
def _with_check(key: _Identity) -> Check:
    return compile_schema(key.spec.parameters, {}, templates=True)


def _kindless(step: Mapping[str, Any]) -> Findings:
    found = [key for key in KIND_KEYS if key in step]
    every = "exactly one of action, steps, parallel, fallback, choose, foreach (with steps), playbook"
    if found:
        names = " and ".join(f"`{key}`" for key in found)
        return (
            Finding(
                f"a step is one thing: this one has {names}",
                every,
                "give each its own step",
                (found[0],),
                True,
                "step-kind",
            ),
        )
    strange = [key for key in step if key not in grammar.COMMON and key != "with"]
    for key in strange:
        hint = did_you_mean(key, KIND_KEYS) or grammar.FOREIGN.get(key, "")
        if hint:
            return (
                Finding(f"this step does nothing: `{key}` is no kind of step", every, hint, (key,), True, "step-kind"),
            )
    return (Finding("this step does nothing", every, rule="step-kind"),)


def _explained(finding: Finding, kind: str) -> Finding:
    """A hint for keys that belong to another kind of step, or to another tool."""
    if finding.rule != "unknown-key" or len(finding.path) != 1:
        return finding
    key = str(finding.path[0])
    owners = [name for name, keys in grammar.KINDS.items() if key in keys]
    if owners:
        belongs = " and ".join(grammar.KIND_NAMES[name] for name in owners)
        return replace(
            finding,
            message=f"`{key}` is not for {grammar.KIND_NAMES[kind]}",
            expected="",
            hint=f"it belongs to {belongs}",
        )
    if key in grammar.FOREIGN:
        return replace(finding, expected="", hint=grammar.FOREIGN[key])
    return finding


def _shallow_steps(value: Any) -> Findings:
    """A list of steps, not looked into: the loader comes to each of them by itself."""
    if type(value) is not list:
        hint = "each step begins with `- id:`" if isinstance(value, dict) else ""
        return (Finding("{name} is " + kind_of(value), "a list of steps", hint, rule="type"),)
    if not value:
        return (Finding("{name} is empty", "at least one step", rule="bounds"),)
    for index, step in enumerate(value):
        if type(step) is not dict:
            return (
                Finding(
                    "{name} is " + kind_of(step), "a step: a map with `id` and one kind", path=(index,), rule="type"
                ),
            )
    return FINE


def _handler(value: Any) -> Findings:
    if type(value) is list:
        return (Finding("{name} is a list", "a map with `steps`", "write {steps: [...]}", rule="type"),)
    return FINE


@cache
def _refs() -> dict[str, Check]:
    refs: dict[str, Check] = {grammar.STEPS: _shallow_steps}
    refs[grammar.INPUT] = lambda value: refs["input"](value)  # noqa: PLW0108  # the input of an input: not there yet
    refs["input"] = compile_schema(grammar.INPUT_SCHEMA, refs, templates=False)
    return refs


@cache
def _step_check(kind: str) -> Check:
    schema = {
        "type": "object",
        "properties": {**grammar.COMMON, **grammar.KINDS[kind]},
        "required": ["id", *([kind] if kind != "foreach" else ["foreach", "steps"])],
        "additionalProperties": False,
    }
    return _with_handlers(compile_schema(schema, _refs(), templates=False), ("on_failure", "finally", "undo"))


@cache
def _common_check() -> Check:
    schema = {"type": "object", "properties": grammar.COMMON, "required": ["id"]}
    return _with_handlers(compile_schema(schema, _refs(), templates=False), ("on_failure", "finally", "undo"))


@cache
def _root_check() -> Check:
    schema = {"type": "object", "properties": grammar.ROOT, "required": ["runbook"], "additionalProperties": False}
    return _with_handlers(compile_schema(schema, _refs(), templates=False), ("on_failure", "finally"))


def _with_handlers(check: Check, handlers: tuple[str, ...]) -> Check:
    """A list where a handler's map belongs gets its own hint."""

    def checked(value: Any) -> Findings:
        found = check(value)
        if not found:
            return FINE
        out: list[Finding] = []
        for one in found:
            special = (
                _handler(value[one.path[0]])
                if len(one.path) == 1 and one.path[0] in handlers and one.path[0] in value
                else FINE
            )
            out += [special[0].under(one.path[0])] if special else [one]
        return out

    return checked


def assemble(catalogue: Catalogue) -> dict[str, Any]:
    """schemas/playbook.schema.json: the whole language with every action's parameters, as editors read it.

    A parameter takes a template in place of its own type; one that `defaults.with` may give is not required.
    """
    names = sorted(catalogue)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated by `python -m runbook.runner.describe` from the language and the actions; do not edit.",
        "title": "A runbook playbook, version 1",
        "type": "object",
        "properties": {**grammar.ROOT, "defaults": _defaults(catalogue)},
        "required": ["runbook"],
        "additionalProperties": False,
        "$defs": {
            "steps": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
            "step": _step(catalogue, names),
            "input": grammar.INPUT_SCHEMA,
            **{name: _editor_parameters(catalogue[name]) for name in names},
        },
    }


def _step(catalogue: Catalogue, names: list[str]) -> dict[str, Any]:
    every: dict[str, Any] = dict(grammar.COMMON)
    for keys in grammar.KINDS.values():
        every.update({key: value for key, value in keys.items() if key not in every})
    every["action"] = {
        **grammar.KINDS["action"]["action"],
        "anyOf": [{"enum": names}, {"type": "string", "pattern": r"^\w+\.\w+$"}],
    }
    every["with"] = {"type": "object", "description": "Parameters of the action, or inputs of the sub-playbook."}
    return {
        "type": "object",
        "properties": every,
        "required": ["id"],
        "additionalProperties": False,
        "oneOf": [{"required": [key]} for key in ("action", "parallel", "fallback", "choose", "playbook", "foreach")]
        + [{"required": ["steps"], "not": {"required": ["foreach"]}}],
        "allOf": [*_by_kind(), *(_by_action(catalogue[name]) for name in names)],
    }


def _by_kind() -> Iterator[dict[str, Any]]:
    for kind, keys in grammar.KINDS.items():
        condition: dict[str, Any] = {"required": [kind]}
        if kind == "steps":
            condition["not"] = {"required": ["foreach"]}
        then: dict[str, Any] = {"propertyNames": {"enum": [*grammar.COMMON, *keys]}}
        if kind == "foreach":
            then["required"] = ["steps"]
        yield {"if": condition, "then": then}


def _by_action(spec: ActionSpec) -> dict[str, Any]:
    then: dict[str, Any] = {"properties": {"with": {"$ref": f"#/$defs/{spec.name}"}}}
    if _required(spec):
        then["required"] = ["with"]
    return {"if": {"properties": {"action": {"const": spec.name}}, "required": ["action"]}, "then": then}


def _required(spec: ActionSpec) -> list[str]:
    properties = spec.parameters.get("properties", {})
    return [name for name in spec.parameters.get("required", ()) if not properties.get(name, {}).get("x-family")]


def _editor_parameters(spec: ActionSpec) -> dict[str, Any]:
    body = {key: value for key, value in spec.parameters.items() if not key.startswith("x-") and key != "required"}
    outputs = "".join(f"\n- `{name}`: {text}" for name, text in spec.outputs.items())
    marks = ", ".join([spec.effect, *(["irreversible"] if spec.irreversible else [])])
    body["description"] = f"{spec.name} ({marks}): {spec.description}" + (f"\n\nOutputs:{outputs}" if outputs else "")
    body["properties"] = {name: _templated(one) for name, one in spec.parameters.get("properties", {}).items()}
    if _required(spec):
        body["required"] = _required(spec)
    return body


def _templated(schema: Any) -> Any:
    """The same schema, where a template may stand for every value in it."""
    if not isinstance(schema, Mapping):
        return schema
    body = {key: value for key, value in schema.items() if not key.startswith("x-")}
    for key in ("items", "additionalProperties"):
        if key in body:
            body[key] = _templated(body[key])
    if "properties" in body:
        body["properties"] = {name: _templated(one) for name, one in body["properties"].items()}
    plain_text = body.get("type") == "string" and not {"enum", "pattern", "const"} & body.keys()
    if plain_text or not {"type", "enum", "const", "anyOf"} & body.keys():
        return body
    shown = {key: body.pop(key) for key in ("description", "default") if key in body}
    return {**shown, "anyOf": [body, dict(grammar.TEMPLATE)]}


def _defaults(catalogue: Catalogue) -> dict[str, Any]:
    families: dict[str, dict[str, Any]] = {}
    for spec in catalogue.values():
        for name, one in spec.parameters.get("properties", {}).items():
            families.setdefault(spec.family, {}).setdefault(name, _templated(one))
    body = dict(grammar.ROOT["defaults"])
    properties = dict(body["properties"])
    properties["with"] = {
        **properties["with"],
        "properties": {
            family: {"type": "object", "properties": keys, "additionalProperties": False}
            for family, keys in sorted(families.items())
        },
    }
    return {**body, "properties": properties}


__all__ = ["assemble", "check_root", "check_step", "check_with", "step_kind", "unknown_key"]
