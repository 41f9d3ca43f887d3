"""Commands that only look: runs, show, logs, report, verify. None of them needs a heavy import."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from runbook.cli import output_file
from runbook.cli.completing import complete_runs
from runbook.cli.terminal import Terminal, columns
from runbook.interpreter.errors import Exit, InternalError, RunbookError
from runbook.interpreter.frozen import frozen
from runbook.runner.folds import count_answers
from runbook.runner.journal import DamagedJournalError, Journal, NewerJournalError
from runbook.runner.run_tree import QuestionView
from runbook.runner.store import RunFolder, Store, home
from runbook.runner.view import RunView, fold
from runbook.runner.wording import end_of, moment, span, value

REPORTS = {".md": "md", ".markdown": "md", ".txt": "md", ".html": "html", ".htm": "html", ".json": "json"}
RECENT = 50  # refused runs that are passed over to find the one to be resumed


def store() -> Store:
    """The store of this process's environment."""
    return Store(home(os.environ))


def view_of(folder: RunFolder) -> tuple[RunView, str]:
    """The view of a run, and who runs it right now ('' nobody)."""
    journal = Journal.open(folder.journal, readonly=True)
    try:
        mailed = journal.mail()  # before the events: what is taken meanwhile is then seen twice, not never
        view = fold(journal.events())
        holder = journal.holder()
    finally:
        journal.close()
    view.id = view.id or folder.id
    for mail in mailed:
        if mail.kind != "answer":
            view.cancelled = str(mail.data.get("why") or mail.kind)
    for question in view.open_questions():
        _add_mailed(view, question, [m.data for m in mailed if m.kind == "answer" and _is_for(m.data, question)])
    return view, "" if holder is None else str(holder)


def _is_for(answer: Mapping[str, Any], question: QuestionView) -> bool:
    return str(answer.get("question", "")) == question.key


def _add_mailed(view: RunView, question: QuestionView, answers: Sequence[Mapping[str, Any]]) -> None:
    """Answers to an open question that no process has read yet."""
    if not answers:
        return
    count_answers(view, question, *answers)
    if not question.progress:
        question.mailed = f"{answers[-1].get('choice') or 'answered'} by {answers[-1].get('by', '')}"


def state_of(view: RunView, holder: str) -> str:
    """What `runs` and `show` call a run's state: `stopped` is one that nobody runs and that did not end."""
    later = view.open_round
    code = view.exit if later is None else later.exit
    if code == int(Exit.WAITING):
        return "waiting"
    if code == int(Exit.IN_DOUBT):
        return "in_doubt"
    if view.ended is not None and not any(made.ended is None for made in view.rounds):
        return end_of(view.status, view.exit)
    if not holder:
        return "stopped" if view.started is not None else "never begun"
    return "waiting" if view.open_questions() else "running"


def acted_on(run: str) -> str:
    """Which run a command that does something means: `last`, or none given, is the newest that began its work.

    What was only refused (by the lock of the run that goes on, say) is passed over.
    """
    return newest_begun() if run in ("", "last") else run


def newest_begun() -> str:
    """The newest run that began its work, or `last` where there is none."""
    for folder in store().runs()[-RECENT:][::-1]:
        try:
            if not _merely_refused(folder):
                return folder.id
        except RunbookError:
            return folder.id  # damaged: whoever wants it is told so
    return "last"


def _merely_refused(folder: RunFolder) -> bool:
    """Whether a run ended before its work began. A record is read whole only where its last word leaves that open."""
    journal = Journal.open(folder.journal, readonly=True)
    try:
        ended = journal.last("run.ended")
        if ended is None or ended.data.get("exit") != int(Exit.REFUSED) or ended.data.get("unfinished"):
            return False
        return not fold(journal.events()).changes()
    finally:
        journal.close()


@click.command(short_help="List the runs, newest first.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@click.option("-a", "--all", "everything", is_flag=True, help="All of them.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="json: for tools.")
@click.option("--locks", metavar="PLACE", help="Also who holds which lock there: file, or k8s:NAMESPACE.")
def runs(limit: int, everything: bool, output: str, locks: str | None) -> None:
    """List the runs of this machine, newest first."""
    terminal = Terminal.of_process()
    kept = store()
    folders = kept.runs()[::-1]
    shown = folders if everything else folders[:limit]
    found = [_line(folder) for folder in shown]
    if output == "json":
        click.echo(json.dumps([asdict(entry) for entry in found], ensure_ascii=False, indent=2))
        return
    if not found:
        click.echo(f"No runs yet. They are kept in {kept.home}.")
        if locks is not None:
            _say_holders(locks)
        return
    rows = [["RUN", "STATUS", "STARTED", "TOOK", "BY"]]
    for entry in found:
        status = terminal.status(entry.state) + (f", {entry.after}" if entry.after else "")
        status += " SIMULATED" if entry.simulated else ""
        rows.append([entry.run, status, entry.started, span(entry.elapsed), entry.initiator])
    for line in columns(rows):
        click.echo(line)
    if len(folders) > len(shown):
        click.echo(terminal.paint(f"{len(folders) - len(shown)} older ones: runbook runs --all", "dim"))
    if locks is not None:
        _say_holders(locks)


def _say_holders(place: str) -> None:
    from runbook.runner import lock_place, session

    here = session.here()
    held = lock_place.holders(here, lock_place.chosen(here, place))
    for one in held:
        click.echo(str(one))
    if not held:
        click.echo("no lock is held")


@frozen
class _Line:
    """One run of the list."""

    run: str
    state: str
    name: str = ""
    started: str = ""
    elapsed: float | None = None
    initiator: str = ""
    simulated: bool = False
    error: str = ""
    after: str = ""  # `undone`, where an undo came later, or how far it came; why it cannot go on


def _line(folder: RunFolder) -> _Line:
    try:
        view, holder = view_of(folder)
    except NewerJournalError as error:
        return _Line(folder.id, "newer", error=error.message, after="needs the newer runbook")
    except RunbookError as error:
        return _Line(folder.id, "damaged", error=error.message)
    return _Line(
        run=view.id,
        state=state_of(view, holder),
        name=view.name,
        started=moment(view.started),
        elapsed=round(view.elapsed(time.time() if holder else None), 3),
        initiator=value(view.initiator),
        simulated=view.simulated,
        error=value((view.error or {}).get("message", "")),
        after=_after(view, holder),
    )


def _after(view: RunView, holder: str) -> str:
    from runbook.cli import onward

    if not holder and onward.is_over(view) and state_of(view, holder) in ("waiting", "in_doubt", "stopped"):
        return "its world is gone"
    if view.cancelled:
        return "to be cancelled"
    later = view.last_round
    if later is None or later.what != "undo":
        return ""
    if later.status != "succeeded":
        return "undo failed" if later.ended else "undo not ended"
    return f"undone but for {len(view.accepted)} accepted" if view.accepted else "undone"


@click.command(short_help="Show a run and what to do next.")
@click.argument("run", default="last", shell_complete=complete_runs)
@click.option("-v", "--verbose", is_flag=True, help="Also what each step gave back.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="json: the report's data.")
def show(run: str, verbose: bool, output: str) -> None:
    """Show a run: its steps, changes, questions, and what to do next.

    RUN: an id, its beginning or its last letters, or `last`.
    """
    from runbook.cli import ending, onward, screen

    terminal = Terminal.of_process()
    view, holder = view_of(store().find(run))
    if output == "json":
        from runbook.runner import report as reports

        click.echo(json.dumps(reports.to_data(view), ensure_ascii=False, indent=2, default=str))
        return
    if view.started is None:
        click.echo(f"run {view.id} ended before it began: nothing was done")
        return
    click.echo(ending.opening(view))
    click.echo(terminal.paint(f"playbook {view.file}, run by runbook {view.version}", "dim"))
    for name, given in view.inputs.items():
        click.echo(f"  {name} = {value(given, 160)}")
    click.echo("")
    for line in screen.tree(view, terminal, now=time.time() if holder else None, verbose=verbose):
        click.echo(line)
    state = state_of(view, holder)
    if state in ("running", "waiting") and holder:
        click.echo(f"\n{terminal.status(state)}: {holder}")
        click.echo(f"  runbook logs -f {view.id}   (follows it)")
        click.echo(f"  runbook cancel {view.id}   (stops it, and cleans up)")
        for question in view.open_questions():
            click.echo(f"  asks {ending.asked(question)}")
            for command in () if question.mailed else onward.answers(view, question):
                click.echo(f"    {command}")
        return
    for line in ending.stopped(view, terminal) if state == "stopped" else ending.lines(view, terminal):
        click.echo(line)
    click.echo(terminal.paint(f"  journal head {view.digest}", "dim"))


@click.command(short_help="Markdown, HTML or JSON of a run.")
@click.argument("run", default="last", shell_complete=complete_runs)
@click.option(
    "--format", "form", type=click.Choice(["md", "html", "json"]), help="Default: by the file's ending, else md."
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="Write it there instead of stdout.")
def report(run: str, form: str | None, path: Path | None) -> None:
    """The report of a run: Markdown, HTML (one file, with the steps against time) or JSON.

    RUN: an id, its beginning or its last letters, or `last`.
    """
    from runbook.runner import report as reports

    chosen = output_file.form_of(path, form, REPORTS, "md")
    view, _ = view_of(store().find(run))
    text = reports.render(view, chosen)
    if path is None:
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)


@click.command(short_help="Was a run's journal, or an artifact, changed after it was written?")
@click.argument("run", default="last", shell_complete=complete_runs)
@click.option("--head", help="A digest that a report named: nothing up to it was changed.")
def verify(run: str, head: str | None) -> None:
    """Recompute every digest of a run's journal: was anything changed after it was written?

    Then that of every file that the journal names with its digest: artifacts, reports that a step wrote, bytes that
    were kept for an undo. RUN: an id, its beginning or its last letters, or `last`.
    """
    from runbook.runner import artifacts

    folder = store().find(run)
    try:
        journal = Journal.open(folder.journal, readonly=True)
    except DamagedJournalError as error:
        error.hint = f"nothing of it can be read; what its steps said and kept is in {folder.path}"
        raise
    try:
        problems = journal.verify()
        events = list(journal.events()) if not problems else []
    finally:
        journal.close()
    digests = [event.digest for event in events]
    files = artifacts.recorded(folder.path, events)
    if not problems and head is not None and head not in digests:
        problems = [f"no event has the digest {head}"]
    if problems:
        raise InternalError(f"the journal of {folder.id} was changed:\n" + "\n".join(f"  {line}" for line in problems))
    wrong = artifacts.problems(files)
    if wrong:
        raise InternalError(
            f"files of {folder.id} are not what its journal records:\n" + "\n".join(f"  {line}" for line in wrong),
            hint="the journal itself is unchanged; `runbook show` and `runbook report` tell what happened",
        )
    later = len(digests) - 1 - digests.index(head) if head is not None else 0
    note = f" ({later} of them after the given one)" if later else ""
    kept = f" and {len(files)} file{'' if len(files) == 1 else 's'}" if files else ""
    click.echo(f"{folder.id}: {len(digests)} events{note}{kept}, unchanged; head {digests[-1] if digests else ''}")
