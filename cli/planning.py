"""`runbook plan` and `runbook apply`: look first, then do just that."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli import output_file, preparing, running, writing
from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit, InvalidError

if TYPE_CHECKING:
    from runbook.cli.preparing import Prepared
    from runbook.runner.local import Ask
    from runbook.runner.plan import Plan
    from runbook.runner.session import Ended, Listener, World


@click.command(short_help="Show what a run would do; nothing is changed.")
@click.argument("file", default="", metavar="FILE", type=click.Path())
@preparing.input_options
@preparing.sandbox_option
@preparing.locks_option
@click.option("-o", "out", type=click.Path(dir_okay=False, path_type=Path), help="Save the plan, for `runbook apply`.")
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print it."
)
def plan(file: str, given: tuple[str, ...], files: tuple[str, ...], scenario: str, **flags: Any) -> int:
    """Show exactly what a run would do. Changes nothing: reads run, changes are only looked at.

    Exit 3 when something is missing (a right, a tool, a credential), 1 when the run would fail as things are now.
    """
    from runbook.runner import planning

    terminal = Terminal.of_process()
    out = flags["out"]
    output_file.form_of(out, None, {".json": "json", ".plan": "json"}, "json")
    output_file.spare(out, [file, *files, *([scenario] if scenario not in ("", preparing.NO_SANDBOX) else ())])
    prepared = preparing.prepare(file, given, files, scenario, terminal)
    output_file.spare(out, prepared.loaded.files)
    with preparing.world(scenario, prepared.playbook) as around, terminal.busy("looking at what it would do"):
        made = planning.make(prepared.loaded, prepared.inputs, world=around, locks=flags["locks"])
    return _shown(made, terminal, flags["output"], out)


def show(
    prepared: Prepared, around: World, terminal: Terminal, output: str, locks: str = "", *, asked: bool = False
) -> int:
    """Make a plan and print it; the exit code that `runbook plan` would have. `asked`: it is part of a question."""
    from runbook.runner import planning

    with terminal.busy("looking at what it would do"):
        made = planning.make(prepared.loaded, prepared.inputs, world=around, locks=locks)
    return _shown(made, terminal, output, None, aside=asked and terminal.aside)


def _shown(made: Plan, terminal: Terminal, output: str, out: Path | None, *, aside: bool = False) -> int:
    from runbook.runner.plan_text import render

    text = made.to_json()
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
            out.chmod(0o600)
        except OSError as error:
            raise InvalidError(f"-o {out}: {error.strerror}") from error
    click.echo(text if output == "json" else render(made, color=terminal.color), nl=False, err=aside)
    if out is not None and output == "text":
        click.echo(f"Saved. Do just this, within the hour: runbook apply {shlex.quote(str(out))}")
    return int(exit_of(made))


def exit_of(made: Plan) -> Exit:
    """What a plan's exit code says."""
    if made.missing:
        return Exit.REFUSED
    return Exit.SUCCEEDED if made.outcome in ("succeeded", "skipped") else Exit.FAILED


@click.command(short_help="Run a saved plan, and nothing else.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@preparing.sandbox_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--wait-lock", is_flag=True, help="Wait for a lock that another run holds, instead of refusing.")
@click.option("--preempt", is_flag=True, help="Cancel the run that holds the lock, and wait for its clean-up.")
@preparing.locks_option
@running.NO_PREFLIGHT
@running.IN_DOUBT
@running.OUTPUT
@running.VERBOSE
def apply(file: Path, scenario: str, yes: bool, **flags: Any) -> int:
    """Run a saved plan: only the calls that it holds, only on objects that have not moved since."""
    from runbook.runner import planning, session
    from runbook.runner.plan import Plan
    from runbook.runner.plan_text import render

    terminal = Terminal.of_process()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{file}: {getattr(error, 'strerror', None) or 'not a saved plan'}") from error
    try:
        saved = Plan.from_json(text)
    except InvalidError as error:
        raise InvalidError(f"{file}: {error.message}", hint=error.hint) from error
    folder = planning.folder_of(saved)
    loaded = planning.playbook_of(saved, folder)
    if loaded.playbook is None:
        writing.show_problems(loaded, terminal)
        return int(Exit.INVALID)
    options = session.Options(
        wait_lock=flags["wait_lock"],
        preempt=flags["preempt"],
        locks=flags["locks"],
        in_doubt=flags["in_doubt"],
        yes=yes,
        preflight=not flags["no_preflight"],
    )
    with preparing.world(scenario, replace(loaded.playbook, file=str(folder / saved.file))) as around:
        if terminal.asks and not yes and flags["output"] == "text":
            terminal.say(render(saved, color=terminal.color))
            terminal.confirm("Run it?")

        def play(world: World, listeners: list[Listener], ask: Ask | None) -> Ended:
            return planning.apply(
                text, loaded, world=world, options=options, listeners=listeners, ask=ask, folder=folder
            )

        return running.follow(
            play, around, terminal, flags["output"], verbose=flags["verbose"], playbook=loaded.playbook
        )
