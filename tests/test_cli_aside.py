"""`runbook run X | tee log`: stdout goes elsewhere, and the person at the terminal is asked all the same, by stderr."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import PATIENCE, Commands
from tests.test_cli import ASKS, GOOD


@dataclass
class Piped:
    """A command whose stdin and stderr are a terminal and whose stdout is a pipe. `shown`: what the person saw."""

    process: subprocess.Popen[str]
    terminal: int
    shown: str = ""

    def answer(self, *pairs: Sequence[str]) -> None:
        """Wait until the terminal shows a text, type a line; again and again."""
        for text, typed in pairs:
            seen = len(self.shown)
            end = time.monotonic() + PATIENCE
            while text not in self.shown[seen:]:
                assert time.monotonic() < end, f"{text!r} never came; the terminal has {self.shown!r}"
                if select.select([self.terminal], [], [], 0.1)[0]:
                    self.shown += os.read(self.terminal, 65536).decode("utf-8", "replace")
            os.write(self.terminal, typed.encode())

    def end(self) -> tuple[int, str]:
        """Exit code, and what went into the pipe."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out


@contextlib.contextmanager
def piped(cli: Commands, *words: str) -> Iterator[Piped]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "runbook.cli", *words],
        cwd=cli.folder, env=cli.variables({"TERM": "xterm-256color"}), start_new_session=True, text=True,
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Piped(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def test_it_asks_before_it_changes_anything_and_shows_what(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    with piped(cli, "run", "good.yaml") as command:
        command.answer(("Run it?", "n\n"))
        code, out = command.end()
    assert code == Exit.CANCELLED
    assert "Plan:" in command.shown, "the plan belongs to the question"
    assert "Run it?" not in out
    with piped(cli, "run", "good.yaml") as command:
        command.answer(("Run it?", "y\n"))
        code, out = command.end()
    assert code == Exit.SUCCEEDED, out
    assert "succeeded" in out, "what the run says goes where it was sent"
    assert "\x1b" not in out


def test_it_asks_what_the_run_asks_a_person(cli: Commands) -> None:
    cli.write("asks.yaml", ASKS)
    with piped(cli, "run", "asks.yaml", "--yes") as command:
        command.answer(("answer", "approve\n"), ("comment", "fine\n"))
        code, out = command.end()
    assert code == Exit.SUCCEEDED, out + command.shown


def test_without_any_terminal_to_show_it_on_nobody_is_asked(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    ours, theirs = pty.openpty()
    try:
        with (cli.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "runbook.cli", "run", "good.yaml"],
                cwd=cli.folder, env=cli.variables(), stdin=theirs, stdout=log, stderr=log,
            )  # fmt: skip
            assert process.wait(PATIENCE) == Exit.SUCCEEDED
    finally:
        os.close(ours)
        os.close(theirs)
