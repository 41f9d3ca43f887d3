"""Commands about this machine: doctor, sandbox up, prune, completion."""

from __future__ import annotations

import calendar
import importlib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli import onward, preparing
from runbook.cli.looking import state_of, store, view_of
from runbook.cli.terminal import Terminal, columns
from runbook.interpreter import located
from runbook.interpreter.errors import Exit, InvalidError, RefusedError, RunbookError
from runbook.runner.lacks import has_extra
from runbook.runner.store import MOMENT, RunFolder
from runbook.runner.wording import together

if TYPE_CHECKING:
    from runbook.interpreter.model import Playbook, SecretSource

Finding = tuple[str, str, str]
"""What was looked at, `ok`, `note` or `bad`, and a sentence."""

BEGINNING = 60.0
"""Seconds in which a run that has no record yet may still be beginning."""
TOOLS = {
    "helm": "helm.* needs it",
    "ssh": "`host:` needs it",
    "git": "git.* needs it",
    "pg_dump": "pg.backup needs it",
    "pg_restore": "pg.restore needs it",
}
EXTRAS = {"psycopg": "pg.* needs it: pip install 'runbook[postgres]'"}


@click.command(short_help="Look at this machine: what would a run lack?")
@click.argument("file", default="", type=click.Path())
@preparing.input_options
@preparing.locks_option
def doctor(file: str, given: tuple[str, ...], files: tuple[str, ...], locks: str) -> int:
    """Look at this machine: can runs be kept, are there tools and clusters? FILE: and what it needs.

    With the inputs of a run also the rights, namespaces and kinds that depend on them.
    """
    terminal = Terminal.of_process()
    marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "red")}
    found = [*_python(), *_home(), *_locks(file, locks), *_tools(), *_kubernetes(), *_plugins()]
    of_file = list(_playbook(file, given, files)) if file else []
    worse = {what for what, state, _ in of_file if state == "bad"}  # said once, where it matters
    found = [finding for finding in found if finding[1] == "bad" or finding[0] not in worse] + of_file
    rows = [[terminal.paint(*marks[state]), what, sentence] for what, state, sentence in found]
    for line in columns(rows):
        click.echo(line)
    bad = sum(1 for _, state, _ in found if state == "bad")
    click.echo(f"\n{bad} to be repaired" if bad else "\nReady.")
    return int(Exit.FAILED if bad else Exit.SUCCEEDED)


def _python() -> Iterator[Finding]:
    import sqlite3

    from runbook import __version__

    yield "runbook", "ok", f"{__version__} on Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}"


def _home() -> Iterator[Finding]:
    """Try what a run needs of its folder: a private place where SQLite's WAL works and a sync comes back."""
    import sqlite3
    import tempfile

    kept = store()
    try:
        kept.prepare()
        with tempfile.TemporaryDirectory(dir=kept.home) as folder:
            db = sqlite3.connect(Path(folder) / "try.db", isolation_level=None)
            mode = db.execute("pragma journal_mode = wal").fetchone()[0]
            db.execute("pragma synchronous = full")
            db.execute("create table t(x)")
            began = time.monotonic()
            for number in range(5):
                db.execute("insert into t values (?)", (number,))
            took = (time.monotonic() - began) / 5
            db.close()
    except RunbookError as error:
        yield "runs", "bad", "; ".join(part for part in (error.message, error.hint) if part)
        return
    except (OSError, sqlite3.Error) as error:
        yield "runs", "bad", f"{kept.home}: {getattr(error, 'strerror', None) or error}"
        return
    if mode != "wal":
        yield "runs", "bad", f"{kept.home}: SQLite's WAL does not work there (a network disk?); set RUNBOOK_HOME"
    else:
        yield "runs", "ok", f"{len(kept.runs())} in {kept.home}; a durable write takes {took * 1000:.1f} ms"
    free = shutil.disk_usage(kept.home).free
    yield "disk", "ok" if free > 200 << 20 else "bad", f"{free >> 20} MiB free"


def _locks(file: str, said: str) -> Iterator[Finding]:
    """Where locks live, and who holds which."""
    from runbook.cli.writing import read
    from runbook.runner import lock_place, session

    here = session.here()
    playbook = read(file).playbook if file else None
    place = lock_place.chosen(here, said, playbook.locks_in if playbook is not None else "")
    if place == lock_place.FILE:
        yield "locks", "note", f"{here.store.locks}: these locks hold between runs on this machine only"
    try:
        lock_place.look(here, place, ())
        if place != lock_place.FILE:
            yield "locks", "ok", f"Leases in {place}"
    except RunbookError as error:
        yield "locks", "bad", "; ".join(part for part in (error.message, error.hint) if part)
        return
    try:
        for one in lock_place.holders(here, place):
            yield "locks", "note", str(one)
    except RunbookError as error:  # to take them needs no right to list them
        yield "locks", "note", f"who holds which is not known: {error.message}"


def _tools() -> Iterator[Finding]:
    for tool, why in TOOLS.items():
        path = shutil.which(tool)
        yield tool, "ok" if path else "note", path or f"not on PATH; {why}"
    for module, why in EXTRAS.items():
        there = find_spec(module) is not None
        yield module, "ok" if there else "note", "installed" if there else f"not installed; {why}"


def _kubernetes() -> Iterator[Finding]:
    """The cluster of the current context, asked for its version within 5 seconds."""
    from runbook.contract import PermanentError, TemporaryError

    configured = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if not _kubeconfig():
        yield "kubernetes", "note", f"no kubeconfig at {configured}; k8s.* and helm.* need one"
        return
    where = "in the cluster" if "KUBERNETES_SERVICE_HOST" in os.environ else configured
    kube: Any = importlib.import_module("runbook.actions._kube.cluster")  # by its name, as the runner finds actions
    try:
        context, version = kube.server_version(dict(os.environ))
    except (PermanentError, TemporaryError) as error:
        yield "kubernetes", "bad", f"{where}: {error.message}"
    else:
        yield "kubernetes", "ok", f"{context}: {version}"


def _kubeconfig() -> bool:
    """Whether there is anything to reach a cluster with: a kubeconfig, or the pod that we are in."""
    configured = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(p).is_file() for p in configured.split(os.pathsep))


def _plugins() -> Iterator[Finding]:
    from runbook.runner import registry

    for family, entry in registry.plugins().items():
        there = registry.family_schema(family) is not None
        lacks = f" ships no schemas/{family}.schema.json: runbook schema --family {family} -o FILE writes it"
        words = f"plug-in {entry.value}" + ("" if there else lacks)
        yield family, "ok" if there else "bad", words


def _playbook(file: str, given: Sequence[str], files: Sequence[str]) -> Iterator[Finding]:
    from runbook.cli.writing import errors, read
    from runbook.interpreter.model import Action, SubPlaybook
    from runbook.runner import registry, shape

    loaded = read(file)
    wrong = errors(loaded.problems)
    if loaded.playbook is None or wrong:
        yield file, "bad", f"{len(wrong)} problems: runbook validate {shlex.quote(file)}"
        return
    yield file, "ok", "valid"
    below = (step.playbook for _, step in shape.walk(loaded.playbook) if isinstance(step, SubPlaybook))
    secrets = (source for book in (loaded.playbook, *below) for source in book.secrets)
    yield from dict.fromkeys(finding for source in secrets for finding in _secret(source))
    known = registry.catalogue()
    used = {step.action for _, step in shape.walk(loaded.playbook) if isinstance(step, Action)}
    families = {name.partition(".")[0] for name in used}
    if "helm" in families and shutil.which("helm") is None:
        yield "helm", "bad", f"not on PATH; {file} uses helm.*"
    if families & {"k8s", "helm"} and not _kubeconfig():
        yield "kubernetes", "bad", f"no kubeconfig; {file} uses {' and '.join(sorted(families & {'k8s', 'helm'}))}"
    for extra in sorted({known[name].extra or "" for name in used} - {""}):
        there = has_extra(extra)
        yield extra, "ok" if there else "bad", "installed" if there else f"pip install 'runbook[{extra}]'"
    yield from _needs(loaded.playbook, preparing.as_far_as_given(loaded.playbook, given, files))


def _needs(playbook: Playbook, inputs: Mapping[str, Any]) -> Iterator[Finding]:
    """What preflight would say of a run with these inputs."""
    from runbook.runner import gate, session, shape

    if not shape.looks_ahead(playbook):
        return
    found = gate.alone(playbook, inputs, session.here())
    told = together(f"{step}: {sentence}".removeprefix(": ") for step, sentence in found.told())
    missing = together(str(lack) for lack in found.missing if not lack.secret)  # those have lines of their own
    yield from (("missing", "bad", sentence) for sentence in missing)
    for sentence in told:
        checked = sentence.removeprefix("not checked: ")
        yield "steps lack" if checked == sentence else "not checked", "note", checked
    yield from (("not checked", "note", sentence) for sentence in found.later)
    if not (missing or told or found.later):
        yield "preflight", "ok", "its steps find what they need"


def _secret(source: SecretSource) -> Iterator[Finding]:
    """Whether a secret is where it is looked for; of one whose place depends on inputs nothing is known yet."""
    where = source.where.data
    if source.kind == "k8s" or not isinstance(where, str) or "{{" in where:
        yield f"secret {source.name}", "note", "looked for when a run begins"
        return
    where = where if source.kind == "env" else located.beside(where, source.place.file)
    there = bool(os.environ.get(where)) if source.kind == "env" else os.access(where, os.R_OK)
    what = f"environment variable {where}" if source.kind == "env" else where
    trouble = "" if there else " is not set" if source.kind == "env" else " cannot be read"
    yield f"secret {source.name}", "ok" if there else "note" if source.optional else "bad", what + trouble


@click.group(short_help="Serve a SIMULATED world to rehearse in.")
def sandbox() -> None:
    """A SIMULATED world to rehearse in."""


@sandbox.command("up", short_help="Serve a simulated world until Ctrl-C, for kubectl and others.")
@click.argument("scenario", default="", type=click.Path())
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Write a kubeconfig for kubectl there.")
def sandbox_up(scenario: str, kubeconfig: Path | None) -> None:
    """Serve a simulated world on this machine until Ctrl-C, so that kubectl and others can be pointed at it."""
    from runbook.sandbox import scenario as scenarios
    from runbook.sandbox import surroundings

    chosen = scenarios.read(Path(scenario)) if scenario else scenarios.Scenario()
    for world in surroundings.serve(chosen, kubeconfig.absolute() if kubeconfig is not None else None):
        click.echo(
            Terminal.of_process().paint(f"SIMULATED world {chosen.name} is up; nothing of it is real.", "yellow")
        )
        click.echo(f"  export KUBECONFIG={(kubeconfig or world.kubeconfig).absolute()}")
        click.echo(f"  runbook run FILE --sandbox {world.folder / 'coordinates.json'}")
        click.echo("Ctrl-C ends it.")
        sys.stdout.flush()
    click.echo("The simulated world is gone.")


@click.command(short_help="Delete old runs.")
@click.option("--older-than", default="30d", show_default=True, metavar="AGE", help="Such as 12h or 30d.")
@click.option("--keep", type=click.IntRange(0), default=20, show_default=True, help="The newest runs stay anyway.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def prune(older_than: str, keep: int, dry_run: bool, yes: bool) -> None:
    """Delete old runs. Runs that are not over, or whose clean-up is open, always stay; what never began does not, nor
    does a rehearsal whose simulated world is gone.
    """
    limit = time.time() - _age(older_than)
    folders = store().runs()
    old = [folder for folder in (folders[:-keep] if keep else folders) if _done_before(folder, limit)]
    old += [folder for folder in store().torsos() if _made_before(folder, limit)]
    if not old:
        click.echo("nothing to delete")
        return
    for folder in old:
        click.echo(folder.id)
    if dry_run:
        click.echo(f"{len(old)} would be deleted")
        return
    terminal = Terminal.of_process()
    if not yes and terminal.asks:
        terminal.confirm(f"Delete these {len(old)} runs? They can then not be undone")
    for number, folder in enumerate(old):
        try:
            shutil.rmtree(folder.path)
        except OSError as error:
            raise RefusedError(
                f"{folder.path} cannot be deleted: {error.strerror}", f"{number} of {len(old)} were deleted"
            ) from error
    click.echo(f"deleted {len(old)}")


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip())
    if found is None:
        raise InvalidError(f"--older-than {text}: not an age", hint="a number and s, m, h, d or w: 12h, 30d")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]


def _done_before(folder: RunFolder, limit: float) -> bool:
    """Whether a run is over for good since before `limit` (Unix time). A damaged one is evidence and stays."""
    try:
        view, holder = view_of(folder)
    except RunbookError:
        return False
    if onward.is_over(view) and not holder:
        return view.last < limit
    state = state_of(view, holder)
    if state == "never begun":
        return _made_before(folder, limit)
    over = state in ("succeeded", "failed", "timed_out", "cancelled", "declined", "refused")
    return over and not view.unfinished and not holder and (view.ended or limit) < limit


def _made_before(folder: RunFolder, limit: float) -> bool:
    """Whether a run was made before `limit` (Unix time) by its id, and not just now: it may be about to begin."""
    try:
        made = calendar.timegm(time.strptime(folder.id[:MOMENT], "%Y%m%d-%H%M%S"))
    except ValueError:
        return False
    return made < min(limit, time.time() - BEGINNING)


@click.command(short_help="Shell completion for bash, zsh and fish.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, runs, actions and what may be answered."""
    from click.shell_completion import get_completion_class

    from runbook.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(cli, {}, "runbook", "_RUNBOOK_COMPLETE").source())
