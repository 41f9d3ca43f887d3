"""shell.run: any command. Opaque: nothing is known of it but what its author says (`effect`, `idempotent`, `undo`)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions import _process
from runbook.contract import Context, Opaque, Outputs, PermanentError, TemporaryError, param, shorten

SSH_LATER = "`host` (over ssh) comes in a later version; leave it out to work on this machine"


@dataclass(frozen=True, kw_only=True)
class RunArgs:
    """Parameters of shell.run."""

    command: list[str] | str = param(
        "A list is a program and its arguments, run without a shell. A text runs in `sh -c`; each template in it must"
        " go through `shell_quote`, outside the text's own quotes. One template alone must give a list. Never holds a"
        " secret: those go by `env` or `stdin`.",
        quoted="shell_quote",
    )
    env: dict[str, str] = param(
        "Environment variables, beside those of runbook itself. One whose optional secret is not there is left out.",
        default_factory=dict,
        secret=True,
    )
    stdin: str | None = param("Text for its standard input; without it there is none.", default=None, secret=True)
    cwd: Path = param("Working directory.", default=Path(), path=True)
    rc: list[int] = param("Exit statuses that mean success (128 + n after signal n).", default_factory=lambda: [0])
    temporary_rc: list[int] = param(
        "Exit statuses that mean: try again (`retry` applies). 75 is EX_TEMPFAIL of sysexits(3).",
        default_factory=lambda: [75],
    )
    host: str | None = param(
        "Another machine, over ssh (a later version). Absent: this one.", default=None, family=True
    )


class Run(Opaque[RunArgs]):
    """Run a command.

    Its process group gets TERM and then KILL at the deadline. Of long output the head and the tail are kept.
    """

    name = "shell.run"
    world = "*"
    returns = {
        "rc": "exit status (128 + n after signal n)",
        "stdout": "standard output, UTF-8",
        "stderr": "standard error, UTF-8",
        "json": "standard output parsed, or null where it is not JSON",
        "truncated": "whether the middle of an output was left out",
    }

    def check(self, args: RunArgs) -> Iterator[str]:
        if args.host is not None:
            yield SSH_LATER
        if not args.command or (isinstance(args.command, list) and not args.command[0]):
            yield "command: names nothing to run"

    def needs(self, args: RunArgs) -> Mapping[str, Any]:
        if args.host is not None or isinstance(args.command, str) or not args.command or "/" in args.command[0]:
            return {}
        if "PATH" in args.env:  # its own, perhaps not known yet
            return {}
        return {"tools": [args.command[0]]}

    def run(self, args: RunArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        argv = ["/bin/sh", "-c", args.command] if isinstance(args.command, str) else args.command
        ctx.permit("process", argv[0] if argv is args.command else args.command)  # type: ignore[arg-type]
        stdin = args.stdin.encode() if args.stdin is not None else None
        done = _process.run(ctx, argv, env=args.env, stdin=stdin, cwd=args.cwd)
        outputs = {
            "rc": done.rc,
            "stdout": done.stdout,
            "stderr": done.stderr,
            "json": _parsed(done.stdout),
            "truncated": done.truncated,
        }
        if done.rc in args.rc:
            return outputs
        sentence = _sentence(done)
        if done.rc in args.temporary_rc:
            raise TemporaryError(sentence, outputs=outputs)
        raise PermanentError(sentence, outputs=outputs)


def _sentence(done: _process.Finished) -> str:
    """Never the command itself: a value in it may be nobody's business."""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    last = f": {shorten(said[-1], 500)}" if said else ""
    if done.rc > 128 and done.rc - 128 in {number.value for number in signal.Signals}:
        return f"killed by {signal.Signals(done.rc - 128).name}{last}"
    return f"exit status {done.rc}{last}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's


ACTIONS = (Run,)
