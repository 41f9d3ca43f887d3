"""What the interpreter knows of the actions: the committed schemas, as data. No action code is ever imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from runbook.interpreter.frozen import frozen

Effect = Literal["read", "check", "change", "opaque", "notify", "local", "ask"]


@frozen
class ActionSpec:
    """One action as its family's schema file describes it (`schemas/actions/<family>.schema.json`, `$defs/<name>`).

    `parameters` is the JSON Schema of `with` (type object, additionalProperties false), as in the file.
    Vendor keys of the file: `x-class`, `x-irreversible`, `x-idempotent`, `x-undo` (auto | again), `x-until` (a bare
    expression built in, e.g. `result.ok`), `x-outputs` (name -> description), `x-lane`, `x-world`,
    `x-extra` (the optional dependency), `x-preflight` (it looks for what it needs before a run changes anything),
    `x-depends` (parameter -> literal value -> what then differs: `{"method": {"GET": {"effect": "read"}}}`),
    and on a parameter `x-secret: true` (the whole value, or for a map each value, may be or contain a secret),
    `x-path: true` (relative to the playbook's file), `x-family: true` (may stand in defaults.with.<family>),
    `x-quoted: FILTER` (its text is code to somebody else: templates in it end in that filter, or give a list).
    """

    name: str
    effect: Effect
    parameters: Mapping[str, Any]
    description: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    irreversible: bool = False
    idempotent: bool = False
    undo: Literal["auto", "again"] = "auto"
    until: str | None = None
    lane: str = ""
    extra: str | None = None
    preflight: bool = False
    depends: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def nature(self, given: Mapping[str, Any]) -> tuple[Effect, bool]:
        """The class and whether it is idempotent, for `with` as written: a parameter in `depends` (`method` of
        http.request) decides when its value, or its default, is a literal; a template keeps the action's own class."""
        effect, idempotent = self.effect, self.idempotent
        for parameter, by in self.depends.items():
            default = self.parameters["properties"][parameter].get("default")
            value = given.get(parameter, default)
            then = by.get(value, {}) if isinstance(value, str) else {}
            effect, idempotent = then.get("effect", effect), then.get("idempotent", idempotent)
        return effect, idempotent

    @property
    def family(self) -> str:
        """The part before the dot: `k8s` of `k8s.patch`."""
        return self.name.partition(".")[0]


Catalogue = Mapping[str, ActionSpec]


def from_schema(document: Mapping[str, Any]) -> dict[str, ActionSpec]:
    """The actions that one family's schema file declares."""
    return {name: _spec(name, body) for name, body in document.get("$defs", {}).items()}


def _spec(name: str, body: Mapping[str, Any]) -> ActionSpec:
    return ActionSpec(
        name=name,
        effect=body["x-class"],
        parameters=body,
        description=body.get("description", ""),
        outputs=body.get("x-outputs", {}),
        irreversible=body.get("x-irreversible", False),
        idempotent=body.get("x-idempotent", False),
        undo=body.get("x-undo", "auto"),
        until=body.get("x-until"),
        lane=body.get("x-lane", name.partition(".")[0] if body["x-class"] == "notify" else ""),
        extra=body.get("x-extra"),
        preflight=body.get("x-preflight", False),
        depends=body.get("x-depends", {}),
    )
