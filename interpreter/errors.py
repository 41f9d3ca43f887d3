"""What can be wrong, one class per exit code (docs/language.md). Problems of a playbook are data, not exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from runbook.interpreter.frozen import frozen


class Exit(IntEnum):
    """The process exit codes that the language promises."""

    SUCCEEDED = 0
    FAILED = 1
    INVALID = 2
    REFUSED = 3
    CANCELLED = 4
    WAITING = 5
    IN_DOUBT = 6
    BUG = 70


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a source file. `line` and `column` count from 1; 0 where there is none (a command-line input)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@frozen
class Problem:
    """One thing that is wrong with a file, said where it stands.

    `path` is the way there by step ids (`deploy/restart.with.name`), `expected` what would have been right,
    `hint` a "did you mean" or what to do. `severity` is `error`, or `warning` (never changes an exit code).
    `rule` is a stable kebab-case name (SARIF's ruleId).
    """

    place: Place
    message: str
    path: str = ""
    expected: str = ""
    hint: str = ""
    severity: str = "error"
    rule: str = "form"


class RunbookError(Exception):
    """An expected end with a sentence for the user. Subclasses fix the exit code."""

    exit: ClassVar[Exit] = Exit.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidError(RunbookError):
    """The playbook, the inputs or the command line are wrong; nothing was run. Carries every problem found."""

    exit = Exit.INVALID

    def __init__(self, message: str, problems: tuple[Problem, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.problems = problems


class RefusedError(RunbookError):
    """Lock held, plan stale, preflight failed: refused before anything was changed."""

    exit = Exit.REFUSED


class InternalError(RunbookError):
    """A bug in runbook, or a journal that does not fit its playbook: nothing is touched."""

    exit = Exit.BUG


class CrashError(InternalError):
    """A bug in runbook that ended a run. `kind` is its class, `text` its traceback, without the run's secrets."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: a bug in runbook ended the run", "`runbook resume` goes on when it is mended")
        self.kind = kind
        self.text = text


class NonDeterminismError(InternalError):
    """A different call stands under a recorded key: this journal was not written by this playbook and this version."""
