"""What any action may lack on this machine: programs, and optional dependencies."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from runbook.contract import Absent, ForUndo

EXTRA_MODULES: Mapping[str, str] = {"postgres": "psycopg"}
"""Optional dependency -> the module that it brings."""


def tools(names: Iterable[str], environ: Mapping[str, str], said: Iterable[str] = ()) -> Iterator[str]:
    """A sentence for each program that is not on PATH. `said`: what the action itself found, in better words."""
    told = tuple(said)
    for name in names:
        begins = f"{name} is not on PATH"
        if shutil.which(name, path=environ.get("PATH", "")) is None and not any(one.startswith(begins) for one in told):
            yield Absent(begins)


def dependency(name: str | None, said: Iterable[str] = ()) -> Iterator[str]:
    """A sentence where the optional dependency is not installed."""
    hint = f"pip install 'runbook[{name}]'"
    if name is None or has_extra(name) or any(hint in one for one in said):
        return
    yield f"{EXTRA_MODULES.get(name, name)} is not installed: {hint}"


def has_extra(name: str) -> bool:
    """Whether an optional dependency is installed."""
    return importlib.util.find_spec(EXTRA_MODULES.get(name, name)) is not None


def masked(sentence: str, mask: Callable[[Any], Any]) -> str:
    """Without secrets, and still Absent or ForUndo if it was."""
    return type(sentence)(mask(str(sentence))) if isinstance(sentence, Absent | ForUndo) else str(mask(sentence))
