"""What `-o` may write: never over what the command read, and only what the file's ending says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from runbook.interpreter.errors import InvalidError


def form_of(path: Path | None, asked: str | None, endings: Mapping[str, str], default: str) -> str:
    """The format: what was asked for, else what the ending says. InvalidError where the ending says something else.

    `endings`: ending -> format. A path without an ending takes any; an ending that no format has is fine only for one
    that was asked for.
    """
    ending = path.suffix.lower() if path is not None else ""
    if not ending:
        return asked or default
    said = endings.get(ending)
    if said is None and asked is None:
        raise InvalidError(f"-o {path}: nothing here is written as {ending}", hint=f"endings: {', '.join(endings)}")
    if said is not None and asked is not None and said != asked:
        raise InvalidError(f"-o {path}: the ending says {said}, and --format {asked}")
    return asked or said or default


def spare(path: Path | None, read: Iterable[str | Path]) -> None:
    """InvalidError where -o would write over a file that the command itself reads."""
    if path is None:
        return
    for one in read:
        if path.resolve() == Path(one).resolve():
            raise InvalidError(f"-o {path}: that is what is read; nothing was written", hint="choose another file")
