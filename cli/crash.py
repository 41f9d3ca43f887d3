"""A bug in runbook: what is known of it goes to a private file, its path to the screen. Secrets are masked in it."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import click

from runbook import __version__
from runbook.interpreter.errors import CrashError, Exit, RunbookError
from runbook.runner import masking, store

TELLING = re.compile(r"pass|secret|token|key|cred|dsn|auth|webhook|private", re.IGNORECASE)


def record(error: BaseException, argv: list[str]) -> int:
    """Write the crash log and say where it is; the exit code of a bug."""
    told = error.text if isinstance(error, CrashError) else "".join(traceback.format_exception(error))
    kind = error.kind if isinstance(error, CrashError) else type(error).__name__
    text = "\n".join(
        [
            f"runbook {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}",
            f"runbook {' '.join(argv)}",
            "",
            told,
        ]
    )
    path = _write(masked(text, os.environ))
    click.echo(f"runbook: this is a bug in runbook ({kind}); what was done so far is in the journal", err=True)
    if path is None:
        click.echo("  its crash log could not be written anywhere", err=True)
    else:
        click.echo(f"  crash log: {path}", err=True)
    click.echo(
        "  runbook runs    shows where the run stands; a run that was stopped goes on with: runbook resume", err=True
    )
    return int(Exit.BUG)


def masked(text: str, environ: Mapping[str, str]) -> str:
    """Text without anything that may be a secret: values of variables with a telling name, in every usual encoding.

    Which secrets a playbook declared is not known here any more; actions' texts were masked before they got this far.
    """
    telling = ((name, value) for name, value in environ.items() if TELLING.search(name))
    found = masking.hits(text, [one for name, value in telling for one in masking.spellings(name, value)])
    for hit in reversed(found):
        text = f"{text[: hit.start]}‹{hit.spelling.name}›{text[hit.end :]}"
    return text


def _write(text: str) -> Path | None:
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.log"
    kept = store.Store(store.home(os.environ))
    for folder in (kept.home / "crashes", Path(tempfile.gettempdir())):
        try:
            if folder.parent == kept.home:
                kept.prepare()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / name
            store.write_private(path, text.encode("utf-8", "backslashreplace"))
        except (OSError, RunbookError):
            continue
        return path
    sys.stderr.write(text)
    return None
