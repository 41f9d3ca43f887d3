"""Commands that run: run, resume, undo, cancel, answer."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from runbook.cli import ending, onward, preparing
from runbook.cli.completing import complete_asking, complete_choices, complete_questions, complete_runs
from runbook.cli.looking import acted_on, store, view_of
from runbook.cli.preparing import Prepared
from runbook.cli.telling import JsonLines, Lines, Screen, settled
from runbook.cli.terminal import Terminal, outliving_the_window
from runbook.interpreter.errors import Exit, InvalidError, RefusedError, RunbookError
from runbook.runner.run_tree import step_of
from runbook.runner.view import RunView
from runbook.runner.wording import one_line

if TYPE_CHECKING:
    from runbook.cli.live import Clock
    from runbook.interpreter.model import Playbook
    from runbook.runner.local import Ask
    from runbook.runner.session import Ended, Listener, World

OUTPUT = click.option(
    "--output", type=click.Choice(["text", "jsonl"]), default="text", help="jsonl: every event as a line of JSON."
)
IN_DOUBT = click.option(
    "--in-doubt",
    type=click.Choice(["ask", "repeat", "done", "fail"]),
    default="ask",
    show_default=True,
    help="What to do with an action of which nobody can tell whether it happened.",
)
NO_PREFLIGHT = click.option(
    "--no-preflight",
    is_flag=True,
    help="Do not look before the first change whether rights, tools and namespaces are there.",
)
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Also what the actions say.")
Play = Callable[["World", "list[Listener]", "Ask | None"], "Ended"]


@click.command(short_help="Run a playbook; asks before it changes anything.")
@click.argument("file", default="", metavar="FILE", type=click.Path())
@preparing.input_options
@click.option("--dry-run", is_flag=True, help="Only show the plan; the same as `runbook plan`.")
@preparing.sandbox_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask before something is changed.")
@click.option("--interactive", is_flag=True, help="Ask at each failure: retry, continue, undo or abort.")
@click.option("--wait-lock", is_flag=True, help="Wait for a lock that another run holds, instead of refusing.")
@click.option("--preempt", is_flag=True, help="Cancel the run that holds the lock, and wait for its clean-up.")
@preparing.locks_option
@NO_PREFLIGHT
@IN_DOUBT
@OUTPUT
@VERBOSE
def run(file: str, given: tuple[str, ...], files: tuple[str, ...], dry_run: bool, scenario: str, **flags: Any) -> int:
    """Run a playbook. On a terminal it first shows what it would change, and asks."""
    from runbook.runner import session

    terminal = Terminal.of_process()
    prepared = preparing.prepare(file, given, files, scenario, terminal)
    with preparing.world(scenario, prepared.playbook) as around:
        if dry_run:
            from runbook.cli import planning

            form = "json" if flags["output"] == "jsonl" else "text"
            return planning.show(prepared, around, terminal, form, flags["locks"])
        if terminal.asks and not flags["yes"] and flags["output"] == "text":
            _agree(prepared, around, terminal, locks=flags["locks"], without=flags["no_preflight"])
        options = session.Options(
            wait_lock=flags["wait_lock"],
            preempt=flags["preempt"],
            locks=flags["locks"],
            in_doubt=flags["in_doubt"],
            interactive=flags["interactive"],
            yes=flags["yes"],
            preflight=not flags["no_preflight"],
        )

        def play(world: World, listeners: list[Listener], ask: Ask | None) -> Ended:
            return session.start(
                prepared.loaded, prepared.inputs, world=world, options=options, listeners=listeners, ask=ask
            )

        return follow(play, around, terminal, flags["output"], verbose=flags["verbose"], playbook=prepared.playbook)


def _agree(prepared: Prepared, around: World, terminal: Terminal, *, locks: str, without: bool) -> None:
    """Show the plan and ask, if the playbook can change anything. `without`: also where something is missing."""
    from runbook.cli import planning
    from runbook.interpreter.model import Action
    from runbook.runner import preflight, shape

    actions = (step for _, step in shape.walk(prepared.playbook) if isinstance(step, Action))
    if not any(step.effect in ("change", "opaque") for step in actions):
        return
    if planning.show(prepared, around, terminal, "text", locks, asked=True) == int(Exit.REFUSED) and not without:
        raise RefusedError("something is missing (see above), so nothing was run", hint=preflight.HINT)
    terminal.say()
    terminal.confirm("Run it?")


@click.command(short_help="Go on after a crash, a kill or an answer.")
@click.argument("run", default="", shell_complete=complete_runs)
@preparing.sandbox_option
@click.option("--cleanup", is_flag=True, help="Only end what is open; nothing new is begun.")
@click.option("--wait-lock", is_flag=True, help="Wait for a lock that another run holds, instead of refusing.")
@IN_DOUBT
@OUTPUT
@VERBOSE
def resume(run: str, scenario: str, cleanup: bool, **flags: Any) -> int:
    """Go on with a run that was killed, that waited for an answer, or whose clean-up is open.

    RUN: an id, its beginning or its last letters. Without it, or with `last`: the newest one that was not merely
    refused.
    """
    from runbook.runner import session

    run = acted_on(run)
    options = session.Options(cleanup_only=cleanup, wait_lock=flags["wait_lock"], in_doubt=flags["in_doubt"])
    with preparing.world(scenario) as around:

        def play(world: World, listeners: list[Listener], ask: Ask | None) -> Ended:
            return session.resume(run, world=world, options=options, listeners=listeners, ask=ask)

        return follow(play, around, Terminal.of_process(), flags["output"], verbose=flags["verbose"], before=run)


@click.command(short_help="Take back what a run changed.")
@click.argument("run", default="last", shell_complete=complete_runs)
@preparing.sandbox_option
@click.option("--accept", multiple=True, metavar="STEP", help="Leave what STEP did as it is: I have seen to it.")
@click.option("--why", default="", help="Why it is accepted, for the journal and the report.")
@click.option("--dry-run", is_flag=True, help="Only show what would be taken back, and where it would stop.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@NO_PREFLIGHT
@IN_DOUBT
@OUTPUT
@VERBOSE
def undo(run: str, scenario: str, accept: tuple[str, ...], dry_run: bool, yes: bool, **flags: Any) -> int:
    """Take back what a run changed, newest first. Durable: an undo that was killed is resumed.

    It stops at a change that nothing takes back, and at one whose inverse fails or is refused (somebody else changed
    the object). See to that one by hand, then go on without it: --accept STEP, which is kept in the journal.

    RUN: an id, its beginning or its last letters. Without it, or with `last`: the newest one that was not merely
    refused.
    """
    from runbook.runner import session

    run = acted_on(run)
    terminal = Terminal.of_process()
    options = session.Options(
        in_doubt=flags["in_doubt"], preflight=not flags["no_preflight"], accept=accept, why=flags["why"]
    )
    with preparing.world(scenario) as around:
        if dry_run or (terminal.asks and not yes and flags["output"] == "text"):
            from runbook.cli import undoing

            stands = session.undo_plan(run, world=around, options=options)
            for line in undoing.lines(stands, run, terminal):
                (click.echo if dry_run else terminal.say)(line)
            if dry_run:
                return int(Exit.SUCCEEDED)
            terminal.confirm(undoing.question(stands))

        def play(world: World, listeners: list[Listener], ask: Ask | None) -> Ended:
            return session.undo(run, world=world, options=options, listeners=listeners, ask=ask)

        return follow(play, around, terminal, flags["output"], verbose=flags["verbose"], before=run)


@click.command(short_help="Stop a run; its clean-up runs.")
@click.argument("run", default="last", shell_complete=complete_runs)
@click.option("--why", default="", help="For the journal and the report.")
def cancel(run: str, why: str) -> None:
    """Stop a run: its work ends, its clean-up runs. A second cancel ends the clean-up too.

    RUN: an id, its beginning or its last letters. Without it, or with `last`: the newest one that was not merely
    refused.
    """
    from runbook.runner import session

    run = acted_on(run)
    folder = store().find(run)
    told = session.cancel(run, why=why)
    view, holder = view_of(folder)
    later = "" if onward.is_over(view) else f", {onward.command(view, 'resume')} finishes it later"
    nobody = f"nobody runs it now; {onward.resuming(view, 'the cancel takes effect with')}"
    said = {
        "told": f"was told; it cleans up (runbook show {folder.id})",
        "told again": f"was told again: its clean-up ends{later}",
        "a moment ago": "was told a moment ago, and cleans up; say it once more to end its clean-up too",
        "twice already": f"was told twice already: its clean-up ends{later}",
        "not acted on yet": f"was told already; {nobody if not holder else 'it has not acted on it yet'}",
        "kept": f"was told; {nobody}",
    }
    click.echo(f"{folder.id} {said[told]}")


@click.command(short_help="Answer what a run asks.")
@click.argument("run", shell_complete=complete_asking)
@click.argument("step", default="", shell_complete=complete_questions)
@click.argument("choice", default="", shell_complete=complete_choices)
@click.option("--comment", default="", help="For the journal and the report.")
@click.option("--check", "checked", multiple=True, metavar="TEXT", help="Checklists: this item is done.")
def answer(run: str, step: str, choice: str, comment: str, checked: tuple[str, ...]) -> None:
    """Answer what a run asks: RUN STEP CHOICE. Without STEP it shows the open questions and what may be answered.

    RUN: an id, its beginning or its last letters, or `last`. STEP: its path, or its last part. CHOICE: approve or
    decline; one of the choices; of a checklist all or none, else --check; of a failure retry, continue, undo or abort;
    of a doubt done, repeat or fail.
    """
    from runbook.runner import people, processes, session

    run = acted_on(run)
    open_now = session.questions(run)
    if not step or (not choice and not checked):
        _show_questions(run, open_now)
        return
    items: tuple[dict[str, Any], ...] = ()
    if checked:
        question = next((q for q in open_now if _is_named(step, q.step, q.key)), None)
        items = _items(question.options if question else {}, checked)
    given = people.Answer(choice, processes.user(), time.time(), comment, items)
    told = session.answer(run, step, given)
    view, _ = view_of(store().find(run))
    progress = next((q.progress for q in view.open_questions() if _is_named(step, step_of(q.key), q.key)), "")
    going_on = f"; nobody runs it now, {onward.resuming(view, 'so go on with')}"
    click.echo(f"answered: {progress}" if progress else "answered" if told else f"answered{going_on}")


def _is_named(said: str, step: str, key: str) -> bool:
    """Whether a word of the command line means this step's question: its path, its last part, or the key."""
    return said in (step, key, step.rpartition("/")[2])


def _items(options: Any, checked: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    from runbook.runner import people

    texts = people.items(options)
    unknown = [text for text in checked if text not in texts]
    if unknown:
        raise InvalidError(f"--check {unknown[0]}: no such item", hint="items: " + "; ".join(texts))
    return tuple({"text": text, "checked": text in checked, "note": ""} for text in texts)


def _show_questions(run: str, open_now: list[Any]) -> None:
    from runbook.runner import people

    folder = store().find(run)
    if not open_now:
        click.echo(f"{folder.id} asks nothing")
        return
    for question in open_now:
        text = one_line(question.text)
        click.echo(text if text.startswith(f"{question.step} ") else f"{question.step}: {text}")
        for choice in people.choices(question):
            click.echo(f"  {onward.answering(folder.id, question.step, choice)}")


# -- following a run


def follow(
    play: Play,
    around: World,
    terminal: Terminal,
    output: str,
    *,
    verbose: bool = False,
    playbook: Playbook | None = None,
    before: str = "",
) -> int:
    """Run something with a screen that follows it, then say how it ended. `before`: a run whose past comes first."""
    screen = _screen(terminal, output, verbose, playbook)
    if before:
        screen.view = view_of(around.store.find(before))[0]
    known = screen.view.seq
    sits_there = terminal if output == "text" else dataclasses.replace(terminal, asks=False)
    ask = preparing.asker(sits_there, around, screen.quiet, lambda key: settled(screen.view.questions.get(key)))
    try:
        with outliving_the_window(), screen:
            ended = play(around, [screen], ask)
    except RunbookError as error:
        error.hint = _hint_of(error, screen.view, went_on=screen.view.seq > known)
        raise
    view = screen.view
    if output == "text":
        for line in ending.lines(view, terminal, _keep_report(view, ended)):
            click.echo(line)
    sys.stdout.flush()
    return int(ended.exit)


def _hint_of(error: RunbookError, view: RunView, *, went_on: bool) -> str | None:
    """What to do now, with the run's name in it: a full disk, a lost lease, somebody else who runs it."""
    hint = error.hint
    if view.started is None:  # not even its beginning is on record
        return hint and hint.replace("resume the run", "run it again: nothing was begun")
    if view.ended is None and hint is None and went_on:
        return onward.resuming(view, "when the reason is gone")
    for command in ("runbook logs -f", "runbook cancel"):
        hint = hint and hint.replace(f"`{command}`", f"`{command} {view.id}`")
    for words in ("resume the run", "try again")[: 2 if went_on else 1]:
        hint = hint and hint.replace(words, onward.command(view, "resume"))
    return hint


def _screen(terminal: Terminal, output: str, verbose: bool, playbook: Playbook | None) -> Screen:
    if output == "jsonl":
        return JsonLines()
    if terminal.live and not verbose:
        from runbook.cli.live import LiveScreen

        return LiveScreen(terminal, _clocks(playbook))
    return Lines(terminal, verbose=verbose)


def _clocks(playbook: Playbook | None) -> tuple[Clock, ...]:
    """Objectives that can be shown while the run goes on; those from a template are judged at its end."""
    from runbook.cli.live import Clock

    objectives = playbook.objectives if playbook is not None else ()
    return tuple(
        Clock(entry.name, entry.within, entry.since)
        for entry in objectives
        if entry.since is None or isinstance(entry.since, str)
    )


def _keep_report(view: RunView, ended: Ended) -> str:
    """The HTML report beside the run; its path, or '' where the disk does not take it (the journal has everything)."""
    if view.ended is None:
        return ""
    from runbook.runner import report
    from runbook.runner.store import write_private

    path = ended.folder.path / "report.html"
    try:
        write_private(path, report.to_html(view).encode())
    except OSError:
        return ""
    return str(path)
