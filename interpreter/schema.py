"""Data -> problems of form, at their place, with a hint.

Each step is checked by the schema of its own kind, and its `with` by its own action's: no giant if/then is ever
tried, and an error speaks of the one kind that was meant. `editor.py` says the same in one document, for editors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from runbook.interpreter import grammar
from runbook.interpreter.catalogue import ActionSpec
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
    return tuple(map(_explained_root, _root_check()(data)))


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
    if finding.rule == "type" and len(finding.path) == 1 and finding.path[0] in grammar.LONG_FORMS:
        return replace(finding, hint=grammar.LONG_FORMS[str(finding.path[0])])
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


def _explained_root(finding: Finding) -> Finding:
    """The same for the root, and for what it declares."""
    if finding.rule == "unknown-key" and len(finding.path) == 1:
        hint = grammar.FOREIGN_ROOT.get(str(finding.path[0]), "")
    elif finding.rule == "unknown-key" and finding.path[0] == "inputs":
        hint = grammar.FOREIGN_INPUT.get(str(finding.path[-1]), "")
    elif finding.rule == "type" and len(finding.path) == 2 and finding.path[0] == "inputs":
        hint = "write {type: string}"
    else:
        return finding
    return replace(
        finding, expected="" if hint and finding.rule != "type" else finding.expected, hint=hint or finding.hint
    )


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


__all__ = ["check_root", "check_step", "check_with", "step_kind", "unknown_key"]
