"""Playbook files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runbook.interpreter.catalogue import Catalogue

if TYPE_CHECKING:
    from runbook.interpreter.load import Loaded

MAX_BYTES = 16 * 1024 * 1024  # of one file: a playbook is written by hand


def read(name: str) -> str:
    """The text of a file. FileNotFoundError for whatever cannot be opened, UnicodeDecodeError for what is no UTF-8."""
    path = Path(name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileNotFoundError(error.errno, error.strerror, name) from error
    if len(content) > MAX_BYTES:
        raise FileNotFoundError(27, f"larger than {MAX_BYTES} bytes", name)
    return content.decode("utf-8-sig")


def read_playbook(path: str, catalogue: Catalogue) -> Loaded:
    """Load the playbook at `path` with all that it imports and calls. Problems are in the result, never raised."""
    from runbook.interpreter.load import load

    return load(path, read, catalogue)
