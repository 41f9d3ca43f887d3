"""An action's typed parameters -> its JSON Schema and its page of documentation. Generated, committed, and checked.

python -m runbook.runner.describe            writes schemas/actions/*.schema.json and docs/actions.md
python -m runbook.runner.describe --check    exit 1 when a committed file differs from what the code says
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from runbook.contract import Action, Duration
from runbook.interpreter.catalogue import from_schema
from runbook.interpreter.editor import assemble
from runbook.runner.parameters import DURATION, Parameter, parameters
from runbook.runner.registry import FAMILIES, SCHEMAS

PLAYBOOK = SCHEMAS.parent / "playbook.schema.json"
DOCUMENTATION = Path(__file__).resolve().parent.parent / "docs" / "actions.md"

CLASSES = {
    "read": "read: really runs in a plan; changes nothing",
    "check": "check: a read with a verdict (`ok`); tried once in a plan, polled with `until`",
    "local": "local: writes only into the run's folder; a plan does not run it",
    "change": "change: previewed as a diff, undone by its inverse, settled by observation",
    "opaque": "opaque: cannot be previewed, nor undone without the author's own `undo`",
    "notify": "notify: tells people, in the lane; a failure is a warning",
    "ask": "ask: a person answers",
}


def family_document(family: str, actions: Iterable[type[Action[Any]]]) -> dict[str, Any]:
    """The schema document of one family: `$defs/<action>` is the schema of that action's `with`."""
    mine = sorted((one for one in actions if one.name.partition(".")[0] == family), key=lambda one: one.name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated from the actions' parameters by `python -m runbook.runner.describe`; do not edit.",
        "title": f"Actions of the family {family}",
        "$defs": {one.name: action_schema(one) for one in mine},
    }


def action_schema(action: type[Action[Any]]) -> dict[str, Any]:
    """The JSON Schema of one action's `with`, with the vendor keys that interpreter/catalogue.py documents."""
    items = parameters(action.args)
    body: dict[str, Any] = {
        "description": inspect.cleandoc(action.__doc__ or ""),
        **_record_schema(items),
        "x-class": action.effect,
        "x-outputs": dict(action.returns),
    }
    optional: dict[str, Any] = {
        "x-irreversible": action.irreversible,
        "x-idempotent": action.idempotent,
        "x-undo": action.undo if action.undo != "auto" else None,
        "x-until": action.until,
        "x-world": action.world,
        "x-lane": action.lane,
        "x-extra": action.extra,
        "x-preflight": _looks_ahead(action),
        "x-depends": {name: {value: dict(then) for value, then in by.items()} for name, by in action.depends.items()},
    }
    return body | {key: value for key, value in optional.items() if value}


def _looks_ahead(action: type[Action[Any]]) -> bool:
    """Whether preflight has anything to ask of it."""
    own = action.preflight is not Action.preflight or action.needs is not Action.needs
    return own or action.extra is not None


def _record_schema(items: tuple[Parameter, ...]) -> dict[str, Any]:
    required = [item.wire for item in items if item.required]
    return {
        "type": "object",
        "properties": {item.wire: _property(item) for item in items},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _property(item: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": inspect.cleandoc(item.doc.get("doc", "")), **_type(item.annotation)}
    for key in ("minimum", "maximum", "pattern"):
        if item.doc.get(key) is not None:
            schema[key] = item.doc[key]
    default = _default(item)
    if default is not dataclasses.MISSING:
        schema["default"] = default
    for key in ("secret", "path", "family"):
        if item.doc.get(key):
            schema[f"x-{key}"] = True
    if item.doc.get("quoted"):
        schema["x-quoted"] = item.doc["quoted"]
    return schema


def _default(item: Parameter) -> Any:
    value = item.field.default
    if item.field.default_factory is not dataclasses.MISSING:
        value = item.field.default_factory()
    if value is None or value is dataclasses.MISSING:
        return dataclasses.MISSING
    if isinstance(value, Duration) or (item.annotation is Duration and isinstance(value, int | float)):
        return duration_text(value)
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def duration_text(seconds: float) -> str:
    """Seconds as a playbook writes them: 90 -> `1m30s`, 0.5 -> `500ms`."""
    left = round(seconds * 1000)
    text = ""
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        amount, left = divmod(left, size)
        text += f"{amount}{unit}" if amount else ""
    return text or "0s"


def _type(annotation: Any) -> dict[str, Any]:
    if annotation is Any:
        return {}
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union([_type(option) for option in inner])
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (list, tuple):
        return _with("array", "items", _type(inner[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _with("object", "additionalProperties", _type(inner[1]))
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _record_schema(parameters(annotation))
    return dict(_SCALARS[annotation])


def _with(kind: str, key: str, inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, key: inner} if inner else {"type": kind}


def _union(options: list[dict[str, Any]]) -> dict[str, Any]:
    """`T | None` of plain types as a list of types; anything else as anyOf."""
    if {} in options:
        return {}
    bare = [option for option in options if list(option) == ["type"]]
    rich = [option for option in options if list(option) != ["type"]]
    names = [option["type"] for option in bare]
    if not rich:
        return {"type": names}
    if len(rich) == 1 and names == ["null"]:
        (only,) = rich
        if "enum" in only:
            return {"enum": [*only["enum"], None]}
        if isinstance(only.get("type"), str):
            return {**only, "type": [only["type"], "null"]}
    return {"anyOf": [*rich, *([{"type": names[0] if len(names) == 1 else names}] if names else [])]}


_SCALARS: Mapping[Any, Mapping[str, Any]] = types.MappingProxyType(
    {
        str: {"type": "string"},
        int: {"type": "integer"},
        float: {"type": "number"},
        bool: {"type": "boolean"},
        Duration: {"type": "string", "format": "duration", "pattern": DURATION},
        Path: {"type": "string", "minLength": 1},
        dict: {"type": "object"},
        list: {"type": "array"},
        type(None): {"type": "null"},
    }
)


def documentation(families: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/actions.md: every action of the given schema documents."""
    lines = [
        "# Actions",
        "",
        "Generated by `python -m runbook.runner.describe` from the actions' own parameters; do not edit.",
        "`required` and `secret` (takes a secret reference) stand beside a parameter; `family` may be set once in"
        " `defaults.with.<family>`; `path` is relative to the playbook's file.",
        "",
        *(f"- **{text.partition(':')[0]}**:{text.partition(':')[2]}" for text in CLASSES.values()),
        "",
    ]
    for family, document in families.items():
        lines += [f"## {family}", ""]
        for name, body in document["$defs"].items():
            lines += _page(name, body)
    return "\n".join(lines).rstrip() + "\n"


def _page(name: str, body: Mapping[str, Any]) -> list[str]:
    marks: list[str] = [body["x-class"]]
    marks += ["irreversible"] if body.get("x-irreversible") else []
    marks += ["idempotent"] if body.get("x-idempotent") and body["x-class"] == "opaque" else []
    marks += ["undo: again"] if body.get("x-undo") == "again" else []
    marks += [f"until: {body['x-until']}"] if body.get("x-until") else []
    marks += [f"needs runbook[{body['x-extra']}]"] if body.get("x-extra") else []
    for parameter, by in body.get("x-depends", {}).items():
        marks += [f"{parameter} {value}: {_differs(then)}" for value, then in by.items()]
    lines = [f"### {name}", "", f"*{' · '.join(marks)}*", "", body["description"], ""]
    if body["properties"]:
        lines += ["| parameter | type | default | |", "|---|---|---|---|"]
        lines += [_row(wire, item, wire in body.get("required", ())) for wire, item in body["properties"].items()]
        lines.append("")
    if body["x-outputs"]:
        lines += ["| output | |", "|---|---|"]
        lines += [f"| `{key}` | {_cell(text)} |" for key, text in body["x-outputs"].items()]
        lines.append("")
    return lines


def _differs(then: Mapping[str, Any]) -> str:
    return str(then["effect"]) if "effect" in then else "idempotent"


def _row(wire: str, item: Mapping[str, Any], required: bool) -> str:
    notes = [key for key in ("secret", "path", "family") if item.get(f"x-{key}")]
    default = "**required**" if required else f"`{json.dumps(item['default'])}`" if "default" in item else ""
    suffix = f" ({', '.join(notes)})" if notes else ""
    return f"| `{wire}` | {_cell(_named(item))} | {_cell(default)} | {_cell(item['description'])}{suffix} |"


def _named(item: Mapping[str, Any]) -> str:
    if "enum" in item:
        return " \\| ".join("null" if one is None else str(one) for one in item["enum"])
    if item.get("x-path") and item.get("type") in ("string", ["string", "null"]):
        return "path" if item["type"] == "string" else "path \\| null"
    if "anyOf" in item:
        return " \\| ".join(
            _named(option) for option in sorted(item["anyOf"], key=lambda one: one.get("type") == "array")
        )
    kind = item.get("type", "any")
    kinds: list[str] = kind if isinstance(kind, list) else [kind]
    if item.get("format") == "duration":
        kinds = ["duration" if one == "string" else one for one in kinds]
    if "array" in kinds and item.get("items"):
        inner = _named(item["items"])
        inner = f"({inner})" if "|" in inner else inner
        kinds = [f"list of {inner}" if one == "array" else one for one in kinds]
    return " \\| ".join({"array": "list", "object": "map", "string": "text"}.get(one, one) for one in kinds)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("\\\\|", "\\|")


def generate() -> tuple[dict[Path, str], list[str]]:
    """Every generated file with its text, and sentences about families that could not be described.

    A family whose module does not exist keeps the schema that is committed, if any."""
    files: dict[Path, str] = {}
    troubles: list[str] = []
    documents: dict[str, Mapping[str, Any]] = {}
    for family, target in FAMILIES.items():
        path = SCHEMAS / f"{family}.schema.json"
        try:
            actions = _load(target)
        except ModuleNotFoundError as missing:
            if missing.name != target.partition(":")[0]:
                troubles.append(f"{family}: {missing}")
            actions = None
        if actions is not None:
            document = family_document(family, actions)
            files[path] = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        elif path.is_file():
            document = json.loads(path.read_text(encoding="utf-8"))
        else:
            continue
        documents[family] = document
    files[DOCUMENTATION] = documentation(documents)
    known = {name: spec for document in documents.values() for name, spec in from_schema(document).items()}
    files[PLAYBOOK] = json.dumps(assemble(known), indent=2, ensure_ascii=False) + "\n"
    return files, troubles


def _load(target: str) -> tuple[type[Action[Any]], ...]:
    module, _, attribute = target.partition(":")
    return tuple(getattr(importlib.import_module(module), attribute))


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` say which differ."""
    files, troubles = generate()
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        troubles += [f"{path.name} differs from the code: run `python -m runbook.runner.describe`" for path in stale]
    else:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
    for trouble in troubles:
        sys.stderr.write(trouble + "\n")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
