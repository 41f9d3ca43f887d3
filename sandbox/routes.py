"""HTTPRoutes of the Gateway API, as the API server treats a custom resource: its CRD's schema fills in and refuses.

The part of gateway.networking.k8s.io/v1 HTTPRoute that a traffic split needs. Fields that the real schema has and this
one has not are an error (501), never dropped. Nothing routes here: what a Service's pods answer, and what a scenario's
metrics say, does not follow the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runbook.sandbox import statuses
from runbook.sandbox.statuses import Cause
from runbook.sandbox.world import Document

Schema = dict[str, Any]
Path = tuple[str | int, ...]

_TEXT: Schema = {"type": "string"}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_MATCH: Schema = {
    "type": "object",
    "properties": {
        "path": {
            "type": "object",
            "default": {"type": "PathPrefix", "value": "/"},
            "properties": {"type": _TEXT | {"default": "PathPrefix"}, "value": _TEXT | {"default": "/"}},
        }
    },
    "elsewhere": ("headers", "method", "queryParams"),
}
_BACKEND: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": _TEXT | {"default": ""},
        "kind": _TEXT | {"default": "Service"},
        "name": _TEXT,
        "namespace": _TEXT,
        "port": _PORT,
        "weight": {"type": "integer", "default": 1, "minimum": 0, "maximum": 1000000},
    },
    "elsewhere": ("filters",),
}
_PARENT: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": _TEXT | {"default": "gateway.networking.k8s.io"},
        "kind": _TEXT | {"default": "Gateway"},
        "name": _TEXT,
        "namespace": _TEXT,
        "port": _PORT,
        "sectionName": _TEXT,
    },
}
_MATCHES: Schema = {"type": "array", "default": [{"path": {"type": "PathPrefix", "value": "/"}}], "items": _MATCH}
_RULE: Schema = {
    "type": "object",
    "properties": {"name": _TEXT, "matches": _MATCHES, "backendRefs": {"type": "array", "items": _BACKEND}},
    "elsewhere": ("filters", "retry", "sessionPersistence", "timeouts"),
}
_SPEC: Schema = {
    "type": "object",
    "properties": {
        "hostnames": {"type": "array", "items": _TEXT},
        "parentRefs": {"type": "array", "items": _PARENT},
        "rules": {"type": "array", "items": _RULE},
    },
    "elsewhere": ("useDefaultGateways",),
}


def default(document: Document) -> None:
    """Fill in, in place, what the schema's defaults say."""
    _default(_SPEC, document.get("spec"))


def unknown(document: Document) -> list[Path]:
    """The fields that the schema does not have. StatusError 501 for those that only the real one has."""
    return list(_unknown(_SPEC, document.get("spec"), ("spec",)))


def causes(document: Document) -> Iterator[Cause]:
    """What the schema refuses, in the words of the server."""
    if "spec" not in document:
        yield Cause("spec", "Required value", "FieldValueRequired")
    else:
        yield from _causes(_SPEC, document["spec"], "spec")


def _default(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = json.loads(json.dumps(inner["default"]))
            _default(inner, value.get(name))
    elif isinstance(value, list):
        for item in value:
            _default(schema.get("items", {}), item)


def _unknown(schema: Schema, value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, dict) and schema.get("type") == "object":
        for name, item in value.items():
            if name in schema.get("elsewhere", ()):
                raise statuses.not_modelled(f"an HTTPRoute's {'.'.join(str(part) for part in (*path, name))}")
            if name not in schema["properties"]:
                yield (*path, name)
            else:
                yield from _unknown(schema["properties"][name], item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(schema.get("items", {}), item, (*path, index))


def _causes(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    wanted = schema["type"]
    if _named(value) != wanted:
        found = _named(value)
        text = f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"'
        yield Cause(path, text, "FieldValueTypeInvalid")
    elif wanted == "integer":
        for key, fits, words in (("minimum", int.__ge__, "greater"), ("maximum", int.__le__, "less")):
            if key in schema and not fits(value, schema[key]):
                bound = f"{path} in body should be {words} than or equal to {schema[key]}"
                yield Cause(path, f"Invalid value: {value}: {bound}")
    elif wanted == "array":
        for index, item in enumerate(value):
            yield from _causes(schema["items"], item, f"{path}[{index}]")
    elif wanted == "object":
        for name in schema.get("required", ()):
            if name not in value:
                yield Cause(f"{path}.{name}", "Required value", "FieldValueRequired")
        for name, inner in schema["properties"].items():
            if name in value:
                yield from _causes(inner, value[name], f"{path}.{name}")


def _named(value: Any) -> str:
    """A value's type as the server calls it."""
    return {bool: "boolean", float: "number", str: "string", int: "integer", dict: "object", list: "array"}.get(
        type(value), "null"
    )
