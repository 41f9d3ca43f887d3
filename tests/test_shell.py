"""shell.run against real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.actions import _process
from runbook.actions.shell import Run
from runbook.contract import PermanentError, TemporaryError
from runbook.runner.processes import end_noted
from tests.context import LocalContext, call

ROOT = Path(__file__).resolve().parent.parent


def run(tmp_path: Path, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    with LocalContext(tmp_path, **options) as ctx:
        return call(Run, given, ctx)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_list_is_run_without_a_shell(tmp_path: Path) -> None:
    out = run(tmp_path, {"command": ["printf", "%s|", "a b", "$HOME", "*"]})
    assert out == {"rc": 0, "stdout": "a b|$HOME|*|", "stderr": "", "json": None, "truncated": False}


def test_a_text_is_run_by_sh(tmp_path: Path) -> None:
    assert run(tmp_path, {"command": "echo one; echo two >&2"})["stderr"] == "two\n"


def test_json_output_is_parsed_and_nan_is_not_json(tmp_path: Path) -> None:
    assert run(tmp_path, {"command": ["echo", '{"a": [1, null]}']})["json"] == {"a": [1, None]}
    assert run(tmp_path, {"command": ["echo", "NaN"]})["json"] is None


def test_environment_stdin_and_working_directory(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        {"command": "cat; echo $COLOUR; pwd", "env": {"COLOUR": "blue"}, "stdin": "fed ", "cwd": str(tmp_path)},
    )
    assert out["stdout"] == f"fed blue\n{tmp_path}\n"


def test_a_child_that_does_not_read_its_stdin_does_not_hang(tmp_path: Path) -> None:
    assert run(tmp_path, {"command": ["true"], "stdin": "x" * 1_000_000})["rc"] == 0


def test_a_megabyte_through_cat_comes_back_bounded(tmp_path: Path) -> None:
    text = "".join(f"{number:07}\n" for number in range(250_000))
    out = run(tmp_path, {"command": ["cat"], "stdin": text})
    assert out["truncated"]
    assert out["stdout"].startswith("0000000\n")
    assert out["stdout"].endswith("0249999\n")
    kept = out["stdout"].partition("\n[")[0] + out["stdout"].partition("left out]\n")[2]
    assert len(kept) == _process.HEAD + _process.TAIL
    assert f"[{len(text) - len(kept)} bytes left out]" in out["stdout"]


def test_output_that_just_fits_is_whole(tmp_path: Path) -> None:
    text = "y" * (_process.HEAD + _process.TAIL)
    out = run(tmp_path, {"command": ["cat"], "stdin": text})
    assert out["stdout"] == text
    assert not out["truncated"]


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    out = run(tmp_path, {"command": r"printf 'a\000b\377c'"})
    assert out["stdout"] == "a\ufffdb\ufffdc"


def test_a_bad_exit_status_is_permanent_and_keeps_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="exit status 3: broken") as caught:
        run(tmp_path, {"command": "echo half; echo broken >&2; exit 3"})
    assert caught.value.outputs == {"rc": 3, "stdout": "half\n", "stderr": "broken\n", "json": None, "truncated": False}


def test_other_statuses_may_be_success_or_temporary(tmp_path: Path) -> None:
    assert run(tmp_path, {"command": "exit 3", "rc": [0, 3]})["rc"] == 3
    with pytest.raises(TemporaryError, match="exit status 75"):
        run(tmp_path, {"command": "exit 75"})


def test_a_signal_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="killed by SIGSEGV") as caught:
        run(tmp_path, {"command": "kill -SEGV $$"})
    assert caught.value.outputs is not None
    assert caught.value.outputs["rc"] == 128 + 11


def test_errors_never_show_the_command(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        run(tmp_path, {"command": ["sh", "-c", "exit 1", "canary-in-argv"], "env": {"TOKEN": "canary-in-env"}})
    assert "canary" not in str(caught.value) + str(caught.value.outputs) + str(caught.value.hint)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"command": ["no-such-tool-anywhere"]}, "no-such-tool-anywhere: not found"),
        ({"command": ["true"], "cwd": "/no/such/folder"}, "working directory /no/such/folder does not exist"),
        ({"command": ["/etc/passwd"]}, "Permission denied"),
        ({"command": ["echo", "a\0b"]}, "NUL"),
        ({"command": []}, "names nothing to run"),
        ({"command": ["true"], "host": "web-1"}, "later version"),
    ],
)
def test_what_cannot_be_started_is_permanent(tmp_path: Path, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PermanentError, match=sentence):
        run(tmp_path, given)


def test_a_sandbox_refuses(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="sandbox"):
        run(tmp_path, {"command": ["touch", str(tmp_path / "made")]}, refused=("process",))
    assert not (tmp_path / "made").exists()


STUBBORN = """
trap '' TERM INT HUP
(trap '' TERM; echo $$ > /dev/null; sleep 60) &
(exec setsid sh -c 'trap "" TERM; echo $$ >> "$1"; sleep 60' strayed "$1") &
echo $$ $! >> "$1"
while :; do sleep 1; done
"""


@pytest.mark.timed
def test_a_tree_that_ignores_term_and_strays_is_ended_within_a_second(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    begun = time.monotonic()
    with pytest.raises(TemporaryError):
        run(tmp_path, {"command": ["sh", "-c", STUBBORN, "tree", str(pids)]}, seconds=1.0, op="run-9:stubborn")
    assert time.monotonic() - begun < 2.0
    listed = [int(pid) for pid in pids.read_text().split()]
    assert len(listed) == 3
    time.sleep(0.05)
    assert [pid for pid in listed if alive(pid)] == []
    assert _process.marked("run-9:stubborn") == []


@pytest.mark.timed
@pytest.mark.parametrize("ends", range(5))
def test_a_polite_process_may_clean_up_at_the_deadline(tmp_path: Path, ends: int) -> None:
    """It ends with 0, and it did not do what it was told to: that is no success."""
    told = tmp_path / "told"
    with pytest.raises(TemporaryError):
        run(tmp_path, {"command": f"trap 'echo bye > {told}; exit 0' TERM; sleep 30 & wait"}, seconds=0.3)
    assert told.read_text() == "bye\n"


@pytest.mark.timed
def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_step(tmp_path: Path) -> None:
    begun = time.monotonic()
    out = run(tmp_path, {"command": "sleep 20 & echo $!"})
    assert time.monotonic() - begun < 2.0
    pid = int(out["stdout"])
    assert alive(pid), "what a command leaves running on purpose goes on"
    os.kill(pid, 9)


def test_a_cancel_before_the_start_starts_nothing(tmp_path: Path) -> None:
    with LocalContext(tmp_path) as ctx:
        ctx.stop()
        with pytest.raises(TemporaryError):
            call(Run, {"command": ["touch", str(tmp_path / "made")]}, ctx)
    assert not (tmp_path / "made").exists()


def test_lines_are_logged_as_they_come_and_the_process_is_noted(tmp_path: Path) -> None:
    with LocalContext(tmp_path) as ctx:
        call(Run, {"command": "echo one; echo two >&2; printf three"}, ctx)
    assert sorted("\n".join(ctx.lines).split("\n")) == ["one", "three", "two"]
    noted = ctx.notes["process"]
    assert noted["pid"] > 1
    assert noted["boot"]


def test_what_a_killed_runbook_left_behind_is_ended_by_its_note(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from runbook.actions import _process
from tests.context import LocalContext
class Noting(LocalContext):
    def note(self, key, value):
        import json, os
        print(json.dumps(value), flush=True)
with Noting(Path(sys.argv[1]), seconds=60, op=sys.argv[2]) as ctx:
    _process.run(ctx, ["sh", "-c", "setsid sleep 70 & sleep 71"])
"""
    op = f"run-{os.getpid()}:left"
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), op], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    note = json.loads(owner.stdout.readline())
    until = time.monotonic() + 5
    while len(_process.marked(op)) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert len(_process.marked(op)) == 3, "sh and both sleeps live on"
    assert end_noted({**note, "boot": "another"}, op) is False
    assert len(_process.marked(op)) == 3, "a note of another boot names nobody"
    assert end_noted(note, op) is True
    time.sleep(0.05)
    assert _process.marked(op) == []
    assert end_noted(note, op) is False


@pytest.mark.timed
def test_many_at_once(tmp_path: Path) -> None:
    results: list[int] = []

    def one() -> None:
        results.append(run(tmp_path, {"command": "sleep 0.2; exit 0"})["rc"])

    threads = [threading.Thread(target=one) for _ in range(100)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0] * 100
    assert time.monotonic() - begun < 5
