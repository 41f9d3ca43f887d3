"""Scenario files: the world to rehearse in, what goes wrong in it, its secrets and its answers."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from runbook.interpreter import model, source
from runbook.interpreter.errors import InvalidError, Place, Problem
from runbook.interpreter.times import parse_duration
from runbook.runner import registry
from runbook.sandbox import answers
from runbook.sandbox.answers import Answer
from runbook.sandbox.behaviour import Behaviours, Version
from runbook.sandbox.faults import FOREVER, Fault

READY_AFTER = 0.4


@dataclass(frozen=True, slots=True)
class Scenario:
    """A checked scenario. `world` is its `world:` as written, for seeding; `places`: where each of its inputs stands in
    `text`.
    """

    name: str = "built-in"
    file: str = "<built-in>"
    description: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    speed: float = 1.0
    ready_after: float = READY_AFTER
    behaviours: Behaviours = field(default_factory=Behaviours)
    faults: tuple[Fault, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    text: str = ""
    places: Mapping[str, Place] = field(default_factory=dict)


def read(path: Path) -> Scenario:
    """A scenario file. InvalidError with every problem and its place."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidError(f"cannot read the scenario {path}: {error.strerror}") from None
    return parse(text, str(path))


def parse(text: str, file: str = "<scenario>") -> Scenario:
    """A scenario's text. InvalidError with every problem and its place."""
    document = source.parse(text, file)
    problems = [*document.problems]
    if not problems:
        problems = list(_problems(document)) or list(answers.problems(document, registry.catalogue()))
    if problems:
        raise InvalidError(f"the scenario {file} is wrong", tuple(problems))
    given = document.data.get("inputs") or {}
    places = {name: document.place(given, name) for name in given}
    return replace(_build(document.data, file), text=text, places=places)


def for_playbook(playbook: model.Playbook, folder: Path) -> Scenario:
    """What `--sandbox` without a file means: the scenario beside the playbook with `default: true`, else a derived one.

    `folder`: where the playbook's file stands.
    """
    beside = folder / "scenarios" / Path(playbook.file).stem
    for path in sorted(beside.glob("*.yaml")) if beside.is_dir() else []:
        data = source.parse(path.read_text("utf-8"), str(path)).data
        if isinstance(data, dict) and data.get("default") is True:
            return read(path)
    return derive(playbook)


def derive(playbook: model.Playbook) -> Scenario:
    """A small built-in world, with a placeholder for each secret that the playbook declares."""
    secrets: dict[str, str] = {}
    for declared in _secrets(playbook):
        where = declared.where.data
        if isinstance(where, str) and "{{" not in where and not declared.optional:
            secrets[where] = f"simulated-{declared.name}"
    return _small(secrets)


def built_in() -> Scenario:
    """A small world: namespace `default` with a Deployment `web` in its second revision, and its Service."""
    return _small({})


def _small(secrets: Mapping[str, str]) -> Scenario:
    web = {"image": "registry.invalid/web:2.0.0", "replicas": 2, "previous": ["registry.invalid/web:1.0.0"]}
    namespace = {"deployments": {"web": web}, "services": {"web": {"selector": {"app": "web"}}}}
    return _build({"scenario": 1, "secrets": secrets, "world": {"namespaces": {"default": namespace}}}, "<built-in>")


def _secrets(playbook: model.Playbook) -> Iterator[model.SecretSource]:
    yield from playbook.secrets
    pending: list[Any] = [*playbook.steps, *playbook.on_failure.steps, *playbook.finally_]
    while pending:
        step = pending.pop()
        if isinstance(step, model.SubPlaybook):
            yield from _secrets(step.playbook)
        for branch in getattr(step, "branches", ()):
            pending.extend(branch.steps)
        pending.extend((*getattr(step, "steps", ()), *step.on_failure.steps, *step.finally_, *step.undo.steps))


@functools.cache
def schema() -> dict[str, Any]:
    """The schema of scenario files."""
    text = resources.files("runbook.schemas").joinpath("scenario.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _problems(document: source.Source) -> Iterator[Problem]:
    import jsonschema  # 60 ms, and only a sandbox needs it

    validator = jsonschema.Draft202012Validator(schema())
    for error in sorted(validator.iter_errors(document.data), key=lambda e: [str(part) for part in e.absolute_path]):
        yield from _problem(document, error)
    world = document.data.get("world") if isinstance(document.data, dict) else None
    for metric in (world or {}).get("metrics") or [] if isinstance(world, dict) else []:
        yield from _pattern(document, metric, "match")
    for fault in document.data.get("faults") or [] if isinstance(document.data, dict) else []:
        yield from _pattern(document, fault, "path")


def _pattern(document: source.Source, container: Any, key: str) -> Iterator[Problem]:
    text = container.get(key) if isinstance(container, dict) else None
    if not isinstance(text, str):
        return
    try:
        re.compile(text)
    except re.error as error:
        yield Problem(document.place(container, key), f"`{key}` is no regular expression: {error}", rule="scenario")


def _problem(document: source.Source, error: Any) -> Iterator[Problem]:
    if error.validator == "oneOf" and error.context and not all(e.validator == "required" for e in error.context):
        error = max(error.context, key=lambda e: len(e.absolute_path))
    container, key = _container(document.data, list(error.absolute_path))
    path = ".".join(str(part) for part in error.absolute_path)
    where = error.instance if isinstance(error.instance, dict | list) else container
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for name in error.instance:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else ""
                place = document.place(error.instance, name, of_key=True)
                yield Problem(place, f"unknown key `{name}`", path, ", ".join(known), hint, rule="scenario")
        return
    at: Place = document.place(where) if where is not container else document.place(container, key)
    message = error.message
    if error.validator == "oneOf":
        choices = ", ".join(" and ".join(choice["required"]) for choice in error.schema["oneOf"])
        message = "exactly one of these is needed"
        yield Problem(at, message, path, choices, rule="scenario")
        return
    yield Problem(at, message, path, error.schema.get("description", ""), rule="scenario")


def _container(data: Any, path: list[Any]) -> tuple[Any, Any]:
    """The list or map in which the last part of a path stands, and that part."""
    for part in path[:-1]:
        data = data[part]
    return data, path[-1] if path else None


def _build(data: Mapping[str, Any], file: str) -> Scenario:
    world = data.get("world") or {}
    return Scenario(
        name=data.get("name") or Path(file).stem.strip("<>"),
        file=file,
        description=data.get("description", ""),
        inputs=data.get("inputs") or {},
        world=world,
        speed=float(world.get("speed", 1)),
        ready_after=_seconds(world.get("ready_after"), READY_AFTER),
        behaviours=Behaviours({name: _version(body) for name, body in (world.get("versions") or {}).items()}),
        faults=tuple(_fault(body) for body in data.get("faults") or []),
        secrets=data.get("secrets") or {},
        answers=tuple(Answer(**body) for body in data.get("answers") or []),
    )


def _seconds(text: str | None, default: float) -> float:
    return default if text is None else float(parse_duration(text))


def _version(body: Mapping[str, Any]) -> Version:
    ready = body.get("ready_after")
    return Version(
        health=body.get("health", "ok"),
        status=body.get("status", 503),
        latency=_seconds(body.get("latency"), 0.0),
        ready_after=None if ready is None else _seconds(ready, 0.0),
        heals=body.get("heals", "never"),
        breaks=body.get("breaks", "never"),
    )


def _fault(body: Mapping[str, Any]) -> Fault:
    given = dict(body)
    hang = given.pop("hang", None)
    given["hang"] = FOREVER if hang is True else None if hang is None else _seconds(hang, 0.0)
    latency = given.pop("latency", None)
    given["latency"] = None if latency is None else _seconds(latency, 0.0)
    if "nth" in given and "times" not in given:
        given["times"] = 1
    return Fault(**given)
