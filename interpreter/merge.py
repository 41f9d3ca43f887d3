"""What a file declares, with what it imports: merged by name first, evaluated after; what stands in the file itself
wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.interpreter.catalogue import ActionSpec
from runbook.interpreter.errors import Place
from runbook.interpreter.frozen import frozen
from runbook.interpreter.source import Source

IMPORTED = ("inputs", "secrets", "vars", "defaults")
MAY_STAND_IN_LIBRARY = frozenset({"runbook", "name", "description", "import", *IMPORTED})


@frozen
class Item:
    """A value and where it stands: `holder[key]` in `source`."""

    value: Any
    source: Source
    holder: Any
    key: Any

    @property
    def place(self) -> Place:
        """Of the value."""
        return self.source.place(self.holder, self.key)

    @property
    def key_place(self) -> Place:
        """Of its key."""
        return self.source.place(self.holder, self.key, of_key=True)


@dataclass(slots=True)
class Declared:
    """The sections of a file that imports take part in. `family`: parameters by family, then by name."""

    inputs: dict[str, Item] = field(default_factory=dict)
    secrets: dict[str, Item] = field(default_factory=dict)
    vars: dict[str, Item] = field(default_factory=dict)
    timeout: Item | None = None
    locks: Item | None = None
    family: dict[str, dict[str, Item]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)  # by section, with those whose declaration is wrong

    def take(self, clean: Mapping[str, Any], written: Mapping[str, Any], source: Source) -> None:
        """Add what a file declares: `clean` is what can be trusted of `written`. It wins over what is here. A name
        keeps the position where it was first declared,
        so that an imported var computed from another one sees what this file says."""
        for section in ("inputs", "secrets", "vars"):
            held = written.get(section)
            self.names.setdefault(section, set()).update(held if isinstance(held, dict) else ())
            into: dict[str, Item] = getattr(self, section)
            for name, value in clean.get(section, {}).items():
                into[name] = Item(value, source, held, name)
        defaults = clean.get("defaults", {})
        if "timeout" in defaults:
            self.timeout = Item(defaults["timeout"], source, written["defaults"], "timeout")
        if "locks" in defaults:
            self.locks = Item(defaults["locks"], source, written["defaults"], "locks")
        for family, parameters in defaults.get("with", {}).items():
            into = self.family.setdefault(family, {})
            for name, value in parameters.items():
                into[name] = Item(value, source, parameters, name)


def parameters(spec: ActionSpec, step: Mapping[str, Any], source: Source, declared: Declared) -> dict[str, Item]:
    """An action's parameters: the step's own, and of `defaults.with` those that the action knows and the step does
    not give.
    """
    own = step.get("with")
    merged = {name: Item(value, source, own, name) for name, value in own.items()} if isinstance(own, dict) else {}
    inherited = declared.family.get(spec.family)
    if inherited:
        known = spec.parameters.get("properties", {})
        for name, item in inherited.items():
            if name in known and name not in merged:
                merged[name] = item
    return merged
