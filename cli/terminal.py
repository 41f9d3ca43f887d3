"""What we may do with the streams we were given: colour, live screen, questions. Decided once, passed on."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from runbook.interpreter.frozen import frozen

CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

STATUS_STYLE = {
    "succeeded": "green",
    "failed": "red",
    "refused": "red",
    "timed_out": "red",
    "in_doubt": "magenta",
    "cancelled": "yellow",
    "declined": "yellow",
    "waiting": "cyan",
    "running": "blue",
    "skipped": "dim",
    "pending": "dim",
}

STATUS_MARK = {
    "succeeded": "✓",
    "failed": "✗",
    "refused": "✗",
    "timed_out": "✗",
    "in_doubt": "?",
    "cancelled": "■",
    "declined": "■",
    "waiting": "☐",
    "running": "▸",
    "skipped": "-",
    "pending": "·",
}


@frozen
class Terminal:
    """`live`: stdout is a terminal that can be redrawn; `asks`: a person can be asked; `color`: escapes are welcome.

    `aside`: what a person is asked goes to stderr, as stdout goes elsewhere (`| tee log`).
    """

    live: bool
    asks: bool
    color: bool
    width: int = 100
    aside: bool = False

    @staticmethod
    def of_process() -> Terminal:
        """From this process's streams and environment (NO_COLOR: no-color.org; TERM=dumb cannot be redrawn)."""
        out, smart = sys.stdout.isatty(), os.environ.get("TERM", "") != "dumb"
        return Terminal(
            live=out and smart,
            asks=sys.stdin.isatty() and (out or sys.stderr.isatty()),
            color=out and smart and not os.environ.get("NO_COLOR"),
            width=_columns() if out else 100,
            aside=not out,
        )

    def say(self, text: str = "", *, nl: bool = True) -> None:
        """Part of a question: where the person sees it."""
        import click

        if self.aside:
            sys.stdout.flush()  # what came before stands before it
        click.echo(text, nl=nl, err=self.aside)

    def paint(self, text: str, style: str) -> str:
        """`text` in a style of `CODES`, or as it is where colour is not wanted."""
        return f"\x1b[{CODES[style]}m{text}\x1b[0m" if self.color and text and style in CODES else text

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say on a terminal what takes its time; the words go when it is over."""
        shown = self.live and sys.stderr.isatty()
        if shown:
            sys.stderr.write(f"{what} ...")
            sys.stderr.flush()
        try:
            yield
        finally:
            if shown:
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()

    def confirm(self, question: str) -> None:
        """Yes or the end (click.Abort). What was typed before the question stood there is no answer to it."""
        import click

        drop_typed()
        click.confirm(self.paint(question, "bold"), abort=True, err=self.aside)

    def status(self, status: str, text: str | None = None) -> str:
        """A status with its mark and colour."""
        from runbook.runner.wording import status_word

        shown = status_word(status) if text is None else text
        return self.paint(f"{STATUS_MARK.get(status, '·')} {shown}", STATUS_STYLE.get(status, "dim"))


def drop_typed() -> None:
    """What was typed and not read yet is an answer to nothing that will be asked."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import termios

        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def silence() -> None:
    """Whoever read our output left (`| head`, a closed window): nothing more can be said, nor tried again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(null, sys.stdout.fileno())
    os.close(null)


@contextlib.contextmanager
def outliving_the_window() -> Iterator[None]:
    """A window that closes (SIGHUP) ends no recovery: it goes on in silence, and `runbook show` follows it."""
    import signal
    import threading

    kind = getattr(signal, "SIGHUP", None)
    if kind is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def hang_up(_number: int, _frame: object) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)

    before = signal.getsignal(kind)
    if before == signal.SIG_DFL:  # nohup has its own mind
        signal.signal(kind, hang_up)
    try:
        yield
    finally:
        signal.signal(kind, before)


class _Window(io.FileIO):
    """A terminal to which nothing can be said once it has gone: that shows a moment before the signal comes."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            return len(content)


class UnwritableError(OSError):
    """What was to be said cannot be written: the disk is full."""


class _File(io.FileIO):
    """A file or a pipe whose errors say whose they are. A reader who left is another matter."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UnwritableError(error.errno, error.strerror) from error


def outlived(stream: TextIO) -> TextIO:
    """A terminal's stream that may go away, or standard output into a file (a pipe) with errors of its own."""
    live = stream.isatty()
    if not isinstance(stream, io.TextIOWrapper) or not (live or stream is sys.stdout):
        return stream
    stream.flush()
    raw = (_Window if live else _File)(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=live)


def _columns() -> int:
    import shutil  # with all of its archive formats: only for a terminal

    return shutil.get_terminal_size((100, 30)).columns


def columns(rows: list[list[str]], gap: str = "  ") -> list[str]:
    """Rows as aligned lines; the last column is not padded. Escapes do not count for the width."""
    if not rows:
        return []
    widths = [max(_width(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return [gap.join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: list[str], widths: list[int]) -> list[str]:
    return [*(cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(row[:-1])), row[-1]]


def _width(text: str) -> int:
    if "\x1b" not in text:
        return len(text)
    import re

    return len(re.sub(r"\x1b\[[0-9;]*m", "", text))


def cut(line: str, width: int) -> str:
    """A line without escapes, no longer than `width`; what is cut shows as `…`."""
    return line if len(line) <= width else line[: max(1, width - 1)] + "…"
