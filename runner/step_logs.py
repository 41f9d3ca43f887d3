"""What steps say while they run: one file of JSON lines beside the run (masked already), for `logs` and `logs -f`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TextIO

from runbook.runner.journal import Event

NAME = "steps.jsonl"
LIMIT = 64 * 1024 * 1024  # bytes; a chatty command must not fill the disk that the journal needs


class StepLogs:
    """A listener that writes log lines: `{"wall", "key", "text"}`. The file is made with the first line."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: TextIO | None = None
        self._left = LIMIT

    def add(self, event: Event) -> None:
        """Write a passing `log` event; everything else is in the journal."""
        if event.kind != "log" or self._left <= 0:
            return
        if self._file is None:
            descriptor = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        line = json.dumps({"wall": round(event.wall, 3), "key": event.key, "text": event.data.get("text", "")})
        self._left -= len(line)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError:  # a full disk: the journal, which says so, is what the run depends on
            self._left = 0
            self.close()

    def close(self) -> None:
        """Never fails: what the disk did not take is lost."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
