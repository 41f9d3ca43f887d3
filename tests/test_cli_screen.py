"""The screen: lines, the live tree, questions, on a real pseudo-terminal."""

from __future__ import annotations

import io
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.cli.asking import chosen
from runbook.cli.live import Clock, LiveScreen, bar, folded
from runbook.cli.reference import hanging
from runbook.cli.screen import fitted, tree
from runbook.cli.telling import Lines
from runbook.cli.terminal import Terminal, columns, cut
from runbook.interpreter.errors import Exit
from runbook.runner.journal import Event
from runbook.runner.view import fold
from tests.command import Commands, Screen, end, until
from tests.test_cli import ASKS, FAILS, GOOD, SLOW

ASKS_MORE = """\
  - id: pick
    action: manual.choose
    with: {message: "Which?", choices: {blue: the old one, green: the new one}}
  - id: list
    action: manual.checklist
    with: {sections: {Web: [site is up, login works]}, allow_unchecked: 1}
  - id: told
    action: file.write
    with: {to: told.txt, content: "{{ steps.pick.outputs.choice }} {{ steps.list.outputs.unchecked }}"}
"""
PLAIN = Terminal(live=False, asks=False, color=False)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
START = 1_763_766_000.0


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def said(*made: tuple[str, str, dict[str, Any], float]) -> list[Event]:
    return [Event(i, kind, key, data, at, START + at, f"{i:064x}") for i, (kind, key, data, at) in enumerate(made, 1)]


# -- on a pseudo-terminal


def test_a_run_that_changes_something_asks_and_no_means_no(cli: Commands) -> None:
    cli.write("fails.yaml", FAILS)
    screen = Screen.start(cli, "run", "fails.yaml")
    screen.answer(("Run it?", "n\n"))
    assert screen.end() == Exit.CANCELLED
    assert "nothing was changed" in screen.shown
    assert "Plan:" in screen.shown
    assert not (cli.home / "runs").exists() or not list((cli.home / "runs").iterdir())


def test_a_run_that_only_reads_does_not_ask(cli: Commands) -> None:
    cli.write("reads.yaml", GOOD.replace("steps:\n  - {", "steps:\n  - {effect: read, ", 1))
    screen = Screen.start(cli, "run", "reads.yaml")
    assert screen.end() == Exit.SUCCEEDED
    assert "Run it?" not in screen.shown


def test_yes_skips_the_question(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    screen = Screen.start(cli, "run", "good.yaml", "--yes")
    assert screen.end() == Exit.SUCCEEDED
    assert "Run it?" not in screen.shown


def test_questions_are_answered_on_the_terminal(cli: Commands) -> None:
    cli.write("all.yaml", ASKS + ASKS_MORE)
    screen = Screen.start(cli, "run", "all.yaml", "--yes")
    screen.answer(
        ("Go on?", ""),
        ("answer:", "perhaps\n"),
        ("not one of them", ""),
        ("answer:", "y\n"),
        ("comment", "\n"),
        ("Which?", ""),
        ("answer:", "2\n"),
        ("site is up:", "y\n"),
        ("login works:", "n later\n"),
    )
    assert screen.end() == Exit.SUCCEEDED, screen.shown
    assert (cli.folder / "told.txt").read_text() == "green 1"


def test_a_question_that_somebody_else_answers_is_asked_no_more(cli: Commands) -> None:
    """The person at the terminal is told who answered, and is asked the next question; a half typed line is dropped."""
    cli.write("all.yaml", ASKS + ASKS_MORE.partition("  - id: list")[0])
    screen = Screen.start(cli, "run", "all.yaml", "--yes")
    screen.until("waits for a person")  # how far the run is stands above the question
    screen.until("answer:")
    screen.type("dec")
    assert cli("answer", "last", "agree", "approve").code == 0
    screen.until("approved (by ")
    screen.answer(("Which?", ""), ("answer:", "2\n"))
    assert screen.end() == Exit.SUCCEEDED, screen.shown


def test_a_missing_input_is_asked_for_until_it_fits(cli: Commands) -> None:
    cli.write("needs.yaml", GOOD.replace("{type: string, default: you}", "{type: integer, description: How many.}"))
    screen = Screen.start(cli, "run", "needs.yaml", "--yes")
    screen.answer(("How many.", ""), ("who (integer)", "many\n"), ("an integer", ""), ("who (integer)", "3\n"))
    assert screen.end() == Exit.SUCCEEDED, screen.shown
    assert "hello 3" in screen.shown


def test_interactive_asks_at_a_failure(cli: Commands) -> None:
    cli.write(
        "flaky.yaml",
        'runbook: 1\nname: flaky\nsteps:\n  - {id: try, action: shell.run, with: {command: "test -e fixed"}}\n',
    )
    screen = Screen.start(cli, "run", "flaky.yaml", "--yes", "--interactive")
    screen.until("answer:")
    (cli.folder / "fixed").touch()
    screen.type("retry\n")
    assert screen.end() == Exit.SUCCEEDED, screen.shown


def test_the_live_screen_shows_steps_clocks_and_the_tail(cli: Commands) -> None:
    cli.write(
        "live.yaml",
        "runbook: 1\nname: live\nobjectives: {ready: 5m, later: {within: 1m, since: ready}}\nsteps:\n"
        "  - id: outer\n    name: Bring it up\n    steps:\n"
        '      - {id: work, action: shell.run, with: {command: "echo line one; sleep 1.2"}, milestone: ready}\n',
    )
    screen = Screen.start(cli, "run", "live.yaml", "--yes")
    screen.until("Bring it up")
    screen.until("work | line one")
    assert screen.end() == Exit.SUCCEEDED
    plain = ESCAPE.sub("", screen.shown)
    assert re.search(r"ready 4:5\d left", plain)
    assert "later 1m after ready" in plain
    assert "Ctrl-C cancels" in plain
    assert "ready: met" in plain


def test_ctrl_c_on_the_live_screen(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW)
    screen = Screen.start(cli, "run", "slow.yaml", "--yes")
    screen.until("begin")
    time.sleep(0.5)
    screen.type("\x03")
    assert screen.end() == Exit.CANCELLED
    assert (cli.folder / "tidied").exists()
    assert "Traceback" not in screen.shown
    assert screen.shown.rindex("\x1b[?25h") > screen.shown.rindex("\x1b[?25l")  # the cursor is back


def test_a_second_ctrl_c_stops_the_clean_up_and_says_how_to_finish_it(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW.replace("command: [touch, tidied]", 'command: "touch tidying; sleep 30; touch tidied"'))
    screen = Screen.start(cli, "run", "slow.yaml", "--yes")
    screen.until("begin")
    time.sleep(0.5)
    screen.type("\x03")
    end = time.monotonic() + 10
    while not (cli.folder / "tidying").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1.2)
    screen.type("\x03")
    assert screen.end(10) == Exit.CANCELLED
    assert "runbook resume" in screen.shown
    assert not (cli.folder / "tidied").exists()


def test_a_doubt_is_settled_on_the_terminal(cli: Commands) -> None:
    cli.write("slow.yaml", SLOW.replace("sleep 30", "sleep 300"))
    process = cli.start("run", "slow.yaml")
    until((cli.folder / "begun").exists)
    end(process, signal.SIGKILL)
    screen = Screen.start(cli, "resume")
    screen.answer(("nobody knows whether", ""), ("answer:", "done\n"))
    assert screen.end() == Exit.SUCCEEDED, screen.shown


def test_no_color_and_a_dumb_terminal(cli: Commands) -> None:
    cli.write("good.yaml", GOOD)
    screen = Screen.start(cli, "run", "good.yaml", "--yes", environ={"NO_COLOR": "1"})
    assert screen.end() == Exit.SUCCEEDED
    assert not re.search(r"\x1b\[[0-9;]*m", screen.shown)
    dumb = Screen.start(cli, "run", "good.yaml", "--yes", environ={"TERM": "dumb"})
    assert dumb.end() == Exit.SUCCEEDED
    assert "\x1b" not in dumb.shown


def test_without_a_terminal_there_are_no_escapes(cli: Commands) -> None:
    cli.write("fails.yaml", FAILS)
    for words in (("run", "fails.yaml"), ("show",), ("runs",), ("plan", "fails.yaml")):
        done = cli(*words)
        assert "\x1b" not in done.out + done.err


def test_undo_shows_what_it_takes_back_and_asks(cli: Commands) -> None:
    cli.write("asks.yaml", ASKS.replace('manual.approve, with: {message: "Go on?"}', "flow.wait, with: {for: 10ms}"))
    assert cli("run", "asks.yaml").code == 0
    screen = Screen.start(cli, "undo")
    screen.answer(("stop at after: nothing takes shell.run back", ""), ("--accept after", ""))
    screen.answer(("not reached write", ""), ("Undo as far as that?", "n\n"))
    assert screen.end() == Exit.CANCELLED
    assert (cli.folder / "out.txt").exists()
    screen = Screen.start(cli, "undo", "--accept", "after")
    screen.answer(("leave as it is after", ""), ("take back write", ""), ("Undo?", "y\n"))
    assert screen.end() == Exit.SUCCEEDED
    assert not (cli.folder / "out.txt").exists()


def test_escapes_from_the_world_do_not_reach_the_terminal(cli: Commands) -> None:
    cli.write(
        "evil.yaml",
        GOOD.replace('[echo, "hello {{ inputs.who }}"]', "\"printf 'a\\\\033[2Jb\\\\033]0;title\\\\007' >&2; exit 1\""),
    )
    screen = Screen.start(cli, "run", "evil.yaml", "--yes")
    assert screen.end() == Exit.FAILED
    for text in (screen.shown, cli("show").out, cli("logs").out):
        assert "\x1b[2J" not in text
        assert "\x07" not in text


# -- parts


def test_typed_answers() -> None:
    assert chosen("2", ("blue", "green")) == "green"
    assert chosen("gr", ("blue", "green")) == "green"
    assert chosen("G", ("green", "grey")) is None
    assert chosen("3", ("blue", "green")) is None
    assert chosen("", ("blue",)) is None
    assert chosen("y", ("approve", "decline")) == "approve"
    assert chosen("no", ("approve", "decline")) == "decline"
    assert chosen("y", ("yes-please", "approve")) == "yes-please"


def test_columns_align_whatever_the_colour() -> None:
    rows = [["a", "b"], ["\x1b[31mlong\x1b[0m", "c"]]
    assert columns(rows) == ["a     b", "\x1b[31mlong\x1b[0m  c"]
    assert columns([]) == []
    assert cut("abcdef", 4) == "abc…"


def test_a_long_difference_keeps_what_changed() -> None:
    line = "    k8s:production/tracktion/Deployment/notification-service-blue#spec.replicas: 1 → 2"
    assert fitted(line, 60) == "    …ployment/notification-service-blue#spec.replicas: 1 → 2"
    assert len(fitted(line, 60)) == 60
    assert fitted(line, 60).endswith("1 → 2")
    assert fitted(line, 200) == line
    assert fitted("x" * 80, 10) == "xxxxxxxxx…"


def test_what_does_not_fit_beside_its_columns_goes_on_below_its_own() -> None:
    line = "  name  text  " + "several words " * 4
    narrow = Terminal(live=True, asks=False, color=False, width=50)
    assert hanging(line.rstrip(), 14, narrow) == [
        "  name  text  several words several words several",
        "              words several words",
    ]
    tiny = Terminal(live=True, asks=False, color=False, width=30)
    assert hanging(line.rstrip(), 14, tiny)[:2] == ["  name  text", "      several words several"]
    assert hanging(line, 14, PLAIN) == [line], "without a terminal a line stays one"


def test_bars() -> None:
    assert bar(0, 10) == f"[{'-' * 20}] 0%"
    assert bar(5, 10) == f"[{'#' * 10}{'-' * 10}] 50%"
    assert bar(20, 10).endswith("100%")
    assert bar(7, 0) == "7"


def a_long_run(steps: int) -> list[Event]:
    made: list[tuple[str, str, dict[str, Any], float]] = [("run.begun", "", {"run": "r", "name": "long"}, 0.0)]
    for number in range(steps):
        made.append(("step.started", f"s{number}", {"id": f"s{number}", "kind": "action"}, float(number)))
        if number < steps - 1:
            made.append(
                ("step.ended", f"s{number}", {"id": f"s{number}", "status": "succeeded", "duration": 1.0}, number + 0.5)
            )
    return said(*made)


def test_a_frame_is_never_higher_than_the_screen() -> None:
    screen = LiveScreen(Terminal(live=True, asks=False, color=False), (Clock("done", 300.0),))
    for event in a_long_run(100):
        screen(event)
    for height in (8, 24, 50):
        lines = list(screen.lines(START + 100, height))
        assert len(lines) <= max(height, 12)
        assert any("s99" in line for line in lines)
        assert any("lines above" in line for line in lines)


def test_a_long_tree_is_cut_at_the_end_and_says_so() -> None:
    from rich.console import Console

    stream = io.StringIO()
    screen = LiveScreen(Terminal(live=True, asks=False, color=False), console=Console(file=stream, width=100))
    for event in a_long_run(1000):
        screen(event)
    screen.__exit__()
    text = stream.getvalue()
    assert "800 lines above" in text
    assert "s999" in text
    assert "s100 " not in text


def test_the_objectives_clock() -> None:
    terminal = Terminal(live=True, asks=False, color=False)
    screen = LiveScreen(
        terminal, (Clock("met", 60.0), Clock("late", 10.0), Clock("next", 60.0, "met"), Clock("after", 60.0, "late"))
    )
    for event in said(
        ("run.begun", "", {"run": "r", "name": "clocks"}, 0.0),
        ("milestone", "met", {"name": "met", "wall": START + 20}, 20.0),
    ):
        screen(event)
    line = list(screen.lines(START + 30, 30))[1]
    assert line == "met met 0:20   late missed, 0:20 over   next 0:50 left   after 1m after late"


def test_finished_parts_are_folded_and_failed_ones_are_not() -> None:
    view = fold(
        said(
            ("step.started", "a", {"id": "a", "kind": "block"}, 0),
            ("step.ended", "a/x", {"id": "x", "status": "succeeded"}, 1),
            ("step.ended", "a", {"id": "a", "status": "succeeded"}, 1),
            ("step.started", "b", {"id": "b", "kind": "block"}, 2),
            ("step.ended", "b/y", {"id": "y", "status": "failed"}, 3),
            ("step.ended", "b", {"id": "b", "status": "failed"}, 3),
        )
    )
    assert [step.key for _, step in folded(view.root.children, 0)] == ["a", "b", "b/y"]


def test_what_happens_while_somebody_types_is_said_afterwards() -> None:
    stream = io.StringIO()
    lines = Lines(PLAIN, stream=stream)
    events = a_long_run(4)
    lines(events[0])
    with lines.quiet():
        before = stream.getvalue()
        for event in events[1:4]:
            lines(event)
        assert stream.getvalue() == before
    assert "s0" in stream.getvalue()


def test_a_poll_that_is_not_yet_says_so_once() -> None:
    stream = io.StringIO()
    lines = Lines(PLAIN, stream=stream)
    for number in range(1, 6):
        for event in said(
            (
                "call.result",
                f"p#{number}",
                {"status": "failed", "error": {"message": "refused"}, "action": "http.check"},
                number,
            ),
            ("slept", f"p#{number}+", {"seconds": 1}, number),
        ):
            lines(event)
    assert stream.getvalue().count("refused") == 1


def test_show_of_every_kind_of_end() -> None:
    for status in ("succeeded", "failed", "timed_out", "skipped", "cancelled", "in_doubt", "declined"):
        view = fold(said(("step.ended", "a", {"id": "a", "status": status, "error": {"message": "why"}}, 1)))
        text = "\n".join(tree(view, PLAIN, verbose=True))
        assert "a" in text
        assert ("why" in text) == (status not in ("succeeded", "skipped"))


def test_signals_are_what_they_were() -> None:
    # a process that a shell started in the background ignores it from the beginning
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)
