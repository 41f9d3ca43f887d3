"""`runbook`: the command group, and what every end of a command turns into (an exit code and a sentence)."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

import click

from runbook import __version__
from runbook.cli.terminal import Terminal, UnwritableError, outlived, silence
from runbook.interpreter.errors import CrashError, Exit, RunbookError

COMMANDS: Mapping[str, str] = {
    "plan": "planning:plan",
    "run": "running:run",
    "apply": "planning:apply",
    "resume": "running:resume",
    "undo": "running:undo",
    "cancel": "running:cancel",
    "answer": "running:answer",
    "runs": "looking:runs",
    "show": "looking:show",
    "logs": "logs:logs",
    "report": "looking:report",
    "verify": "looking:verify",
    "validate": "writing:validate",
    "new": "writing:new",
    "graph": "writing:graph",
    "actions": "reference:actions",
    "schema": "reference:schema",
    "doctor": "machine:doctor",
    "sandbox": "machine:sandbox",
    "prune": "machine:prune",
    "completion": "machine:completion",
}
"""Command -> module:function. A module is imported when its command is used."""

LOOK_FOR_GARBAGE = 50_000
"""New objects between two looks for cycles: what a playbook and a journal are read into is kept, and with Python's 700
a third of a resume went into looking at it again and again."""

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Run": ("plan", "run", "apply", "resume", "undo", "cancel", "answer"),
    "Look": ("runs", "show", "logs", "report", "verify"),
    "Write": ("validate", "new", "graph", "actions", "schema"),
    "Machine": ("doctor", "sandbox", "prune", "completion"),
}


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"runbook.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        found = super().resolve_command(ctx, args)
        if found[1] is not None and not {"-h", "--help"}.isdisjoint(args):
            from runbook.cli.examples import shown

            found[1].epilog = shown(name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                if command is not None:
                    rows.append((name, command.get_short_help_str(limit=70)))
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="runbook", message="%(prog)s %(version)s")
def cli() -> None:
    """Run rollback procedures: preview them, run them, survive being killed, undo them.

    \b
    runbook plan FILE       show what would happen; nothing is changed
    runbook run FILE        do it; asks on a terminal before anything is changed
    runbook resume RUN      go on after a crash, a kill or an answer
    runbook undo RUN        take back what a run changed

    Exit codes: 0 succeeded, 1 failed, 2 invalid, 3 refused, 4 cancelled, 5 waiting for a person, 6 in doubt, 70 a bug.
    """


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script. Leaves without waiting for threads that an action left hanging (they are daemons)."""
    gc.set_threshold(LOOK_FOR_GARBAGE)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our signs gets `?`, never an error
    kept = (sys.stdout, sys.stderr)  # whoever forgets a stream closes its descriptor
    sys.stdout, sys.stderr = map(outlived, kept)
    code = perform(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or int(Exit.FAILED)
    os._exit(code)


def perform(argv: list[str]) -> int:
    """Run one command line; its exit code. Every end becomes a sentence on stderr, never a traceback."""
    try:
        result: object = cli.main(argv, prog_name="runbook", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return int(Exit.INVALID)
    except click.UsageError as error:
        _usage(error)
        return int(Exit.INVALID)
    except click.ClickException as error:
        click.echo(f"runbook: {error.format_message()}", err=True)
        return int(Exit.INVALID)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nCancelled; nothing was changed by this command.", err=True)
        return int(Exit.CANCELLED)
    except BrokenPipeError:
        silence()
        return int(Exit.SUCCEEDED)
    except CrashError as error:
        from runbook.cli.crash import record

        return record(error, argv)
    except RunbookError as error:
        from runbook.cli.ending import show_error

        show_error(error, Terminal.of_process())
        return int(error.exit)
    except SystemExit:
        raise
    except UnwritableError as error:
        silence()
        click.echo(f"runbook: the output cannot be written: {error.strerror}", err=True)
        return int(Exit.FAILED)
    except BaseException as error:  # noqa: BLE001  the last fence: whatever is left is a bug, and says so
        from runbook.cli.crash import record

        return record(error, argv)
    return int(result) if isinstance(result, int) else int(Exit.SUCCEEDED)


def _usage(error: click.UsageError) -> None:
    click.echo(f"runbook: {error.format_message()}", err=True)
    if error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try: {error.ctx.command_path} --help", err=True)


if __name__ == "__main__":
    main()
