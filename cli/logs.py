"""`runbook logs`: what the actions of a run wrote. Needs no heavy import but to tell what is no step."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import click

from runbook.cli.completing import complete_runs, complete_steps
from runbook.cli.looking import store, view_of
from runbook.interpreter.errors import InvalidError
from runbook.runner import step_logs
from runbook.runner.journal import Journal
from runbook.runner.run_tree import step_of
from runbook.runner.store import RunFolder
from runbook.runner.wording import one_line

FOLLOW_EVERY = 0.3  # seconds between looks at a journal that another process writes
INDEX = re.compile(r"\[\d*\]")  # which iteration, or branch, in a step's path


@click.command(short_help="Print what the actions wrote (-f follows).")
@click.argument("run", default="last", shell_complete=complete_runs)
@click.argument("step", default="", shell_complete=complete_steps)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
def logs(run: str, step: str, follow: bool) -> None:
    """Print what the actions of a run wrote (of one STEP: its log as it is).

    RUN: an id, its beginning or its last letters, or `last`. STEP: its path, or its last part.
    """
    folder = store().find(run)
    said = False
    try:
        for line in _log_lines(folder, step, follow):
            click.echo(line)
            said = True
    except KeyboardInterrupt:
        if not follow or view_of(folder)[1] == "":
            raise
        click.echo(f"\n{folder.id} goes on; runbook cancel {folder.id} stops it", err=True)
        return
    if not said and step:
        _known(folder, step)
    if not said:
        click.echo(f"{folder.id}: {f'step {step} wrote nothing' if step else 'no step wrote anything'}", err=True)


def _known(folder: RunFolder, step: str) -> None:
    """InvalidError for a step that the run's playbook does not have, at its path or by its last part."""
    from runbook.interpreter.findings import did_you_mean
    from runbook.interpreter.load import load
    from runbook.runner import registry, shape

    journal = Journal.open(folder.journal, readonly=True)
    try:
        begun = journal.last("run.begun")
        loaded = load(begun.data["file"], journal.file, registry.catalogue()) if begun is not None else None
    finally:
        journal.close()
    steps = [path for path, _ in shape.walk(loaded.playbook)] if loaded is not None and loaded.playbook else []
    names = {INDEX.sub("", name) for path in steps for name in (path, path.rpartition("/")[2])}
    if steps and INDEX.sub("", step) not in names:
        raise InvalidError(f"{folder.id} has no step {step}", hint=did_you_mean(step, sorted(names)) or None)


def _log_lines(folder: RunFolder, step: str, follow: bool) -> Iterator[str]:
    """Lines of what the steps said; with --follow until nobody runs it any more."""
    path, rest, read = folder.logs / step_logs.NAME, b"", 0
    while True:
        running = follow and view_of(folder)[1] != ""
        if path.is_file():
            with path.open("rb") as file:
                file.seek(read)
                content = file.read()
            read += len(content)
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                yield from _said(line, step)
        if not running:
            return
        time.sleep(FOLLOW_EVERY)


def _said(line: bytes, step: str) -> Iterator[str]:
    """One stored line for people: when, which step, what. Of one step: only what it said."""
    try:
        entry = json.loads(line)
    except ValueError:
        return  # cut off by a crash
    of = step_of(str(entry.get("key", "")))
    if step and step not in (of, of.rpartition("/")[2]):
        return
    at = time.strftime("%H:%M:%SZ", time.gmtime(float(entry.get("wall", 0.0))))  # as everywhere else: UTC
    for text in str(entry.get("text", "")).splitlines():
        yield one_line(text) if step else f"{at}  {of}  {one_line(text)}"
