"""Files beside a run that its journal names with a digest: are they still what was recorded?

Artifacts and reports by their SHA-256 in the outputs of the step that wrote them, bytes that were kept for an inverse
by their name. What a run changes in the world (`file.write`) may change again and is not meant.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runbook.interpreter.frozen import frozen
from runbook.runner.journal import Event

_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEPT = re.compile(r"kept:([0-9a-f]{64})")


@frozen
class Recorded:
    """A file as the journal has it: which step wrote it, where it lies, what it holds."""

    step: str
    path: Path
    sha256: str


def recorded(folder: Path, events: Iterable[Event]) -> list[Recorded]:
    """All files that the journal of the run in `folder` names with a digest; of one written twice, the last time."""
    found: dict[Path, Recorded] = {}
    for event in events:
        data = event.data
        step = str(data.get("op") or "")
        if event.kind == "call.result" and data.get("effect") == "local" and data.get("status") == "succeeded":
            outputs = data.get("outputs")
            path, digest = (outputs.get("path"), outputs.get("sha256")) if isinstance(outputs, Mapping) else ("", "")
            if isinstance(path, str) and isinstance(digest, str) and path and _DIGEST.fullmatch(digest):
                where = _beside(folder, path)
                found[where] = Recorded(step, where, digest)
        elif event.kind == "call.intent":
            for digest in _references(data.get("inverse")):
                found[folder / "kept" / digest] = Recorded(step, folder / "kept" / digest, digest)
    return list(found.values())


def _beside(folder: Path, path: str) -> Path:
    """Where a recorded file lies now: runs may have been moved to another home."""
    _, mark, rest = path.partition(f"/{folder.name}/")
    return folder / rest if mark else Path(path)


def _references(wire: Any) -> Iterator[str]:
    """Kept bytes that an inverse needs."""
    if isinstance(wire, str):
        found = _KEPT.fullmatch(wire)
        if found is not None:
            yield found[1]
    elif isinstance(wire, Mapping | list | tuple):
        for item in wire.values() if isinstance(wire, Mapping) else wire:
            yield from _references(item)


def problems(files: Iterable[Recorded]) -> list[str]:
    """What is not as it was recorded, a sentence for each file, in the order in which they were written."""
    return [f"{file.step}: {trouble}" for file in files if (trouble := _trouble(file))]


def _trouble(file: Recorded) -> str:
    what = f"the kept bytes {file.sha256[:12]}" if file.path.parent.name == "kept" else str(file.path)
    try:
        if file.path.is_symlink() or not file.path.exists():
            return f"{what} is {'a link now' if file.path.is_symlink() else 'missing'}"
        with file.path.open("rb") as stream:
            now = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"{what} cannot be read: {error.strerror}"
    return "" if now == file.sha256 else f"{what} was changed"
