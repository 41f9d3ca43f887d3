"""Which actions there are. The catalogue is read from schema files; code is imported when an action is first used."""

from __future__ import annotations

import functools
import importlib
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.contract import Action, PermanentError
from runbook.interpreter.catalogue import ActionSpec, Catalogue, from_schema
from runbook.runner.parameters import parse

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["FAMILIES", "GROUP", "SCHEMAS", "catalogue", "family_schema", "find", "parse", "plugins"]

GROUP = "runbook.actions"
"""The entry-point group of plug-ins: family -> `module:TUPLE`."""

SCHEMAS = Path(__file__).parent.parent / "schemas" / "actions"

FAMILIES: Mapping[str, str] = types.MappingProxyType(
    {
        "flow": "runbook.runner.builtins:ACTIONS",
        "manual": "runbook.runner.builtins:ACTIONS",
        "artifact": "runbook.runner.builtins:ACTIONS",
        "report": "runbook.runner.builtins:ACTIONS",
        "playbook": "runbook.runner.builtins:ACTIONS",
        "shell": "runbook.actions.shell:ACTIONS",
        "file": "runbook.actions.file:ACTIONS",
        "http": "runbook.actions.http:ACTIONS",
        "k8s": "runbook.actions.k8s:ACTIONS",
        "helm": "runbook.actions.helm:ACTIONS",
        "pg": "runbook.actions.pg:ACTIONS",
        "registry": "runbook.actions.registry:ACTIONS",
        "prometheus": "runbook.actions.prometheus:ACTIONS",
        "slack": "runbook.actions.slack:ACTIONS",
        "pagerduty": "runbook.actions.pagerduty:ACTIONS",
        "statuspage": "runbook.actions.statuspage:ACTIONS",
    }
)
"""The families that ship. A new one is a line here and a module; `runbook.runner.describe` writes its schema."""


class _Known(Mapping[str, ActionSpec]):
    """Reads a family's schema when one of its actions is asked for: a cold `run` opens only the files it needs."""

    def __init__(self) -> None:
        self._families: dict[str, Mapping[str, ActionSpec]] = {}

    def __getitem__(self, name: str) -> ActionSpec:
        return self._family(name.partition(".")[0])[name]

    def __iter__(self) -> Iterator[str]:
        for family in (*FAMILIES, *plugins()):
            yield from self._family(family)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _family(self, family: str) -> Mapping[str, ActionSpec]:
        if family not in self._families:
            document = family_schema(family)
            self._families[family] = from_schema(document) if document is not None else {}
        return self._families[family]


def catalogue() -> Catalogue:
    """Every action that this installation knows, by name. Imports no action code."""
    return _Known()


def family_schema(family: str) -> Mapping[str, Any] | None:
    """The schema document of a family, shipped or of a plug-in; None where there is none."""
    if family in FAMILIES:
        path: Path | None = SCHEMAS / f"{family}.schema.json"
    else:
        entry = plugins().get(family)
        path = _shipped_schema(entry) if entry is not None else None
    if path is None or not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    return document if isinstance(document, dict) else None


@functools.cache
def plugins() -> Mapping[str, EntryPoint]:
    """Families of installed plug-ins. A plug-in cannot replace a family that ships."""
    from importlib.metadata import entry_points

    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    return {entry.name: entry for entry in found if entry.name not in FAMILIES}


def _shipped_schema(entry: EntryPoint) -> Path | None:
    """`schemas/<family>.schema.json`, package data of the entry point's distribution; found without an import."""
    wanted = f"{entry.name}.schema.json"
    for file in (entry.dist.files or ()) if entry.dist is not None else ():
        if file.name == wanted and file.parent.name == "schemas":
            return Path(str(file.locate()))
    # an editable install lists no package files: look beside the top package (finding its spec imports nothing)
    from importlib.util import find_spec

    spec = find_spec(entry.module.partition(".")[0])
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    return next((path for folder in folders if (path := Path(folder) / "schemas" / wanted).is_file()), None)


@functools.cache
def find(name: str) -> type[Action[Any]]:
    """The class of an action; imports its family. Raises PermanentError for a name that no family has."""
    family = name.partition(".")[0]
    target = FAMILIES.get(family)
    if target is None:
        entry = plugins().get(family)
        if entry is None:
            raise PermanentError(f"there is no action {name}: no family {family}", hint="`runbook actions` lists them")
        target = entry.value
    module, _, attribute = target.partition(":")
    for action in getattr(importlib.import_module(module), attribute or "ACTIONS"):
        if action.name == name:
            return action  # type: ignore[no-any-return]
    raise PermanentError(
        f"there is no action {name} in the family {family}", hint=f"`runbook actions {family}` lists them"
    )
