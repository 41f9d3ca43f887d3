"""What an operator's machine does to a command: readers that leave, windows that close, disks that take nothing."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands, end, until

CHATTY = """
runbook: 1
name: chatty
steps:
  - {id: flag, action: file.write, with: {content: "1", to: flag}, temporary: true}
  - {id: chat, action: shell.run, with: {command: [sh, -c, "seq 200; sleep 1; seq 200"]}, effect: read}
  - {id: mark, action: file.write, with: {content: "done", to: mark}}
"""
ASKING = """
runbook: 1
name: asking
steps:
  - {id: say, action: shell.run, with: {command: "echo hello"}, effect: read}
  - id: part
    steps:
      - {id: agree, action: manual.approve, with: {message: "Go on?"}}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    made = Commands(tmp_path)
    made.write("chatty.yaml", CHATTY)
    return made


def states(cli: Commands) -> list[str]:
    return [entry["state"] for entry in json.loads(cli("runs", "--output", "json").out)]


@pytest.mark.parametrize("words", [("-v",), ("--output", "jsonl")], ids=["text", "jsonl"])
def test_a_run_goes_on_when_its_reader_leaves(cli: Commands, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "runbook.cli", "run", "chatty.yaml", *words]
    run = subprocess.Popen(command, cwd=cli.folder, env=cli.variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    with run.stderr as said:
        assert said.read() == b""
    assert run.wait(20) == Exit.SUCCEEDED
    assert states(cli) == ["succeeded"]
    assert (cli.folder / "mark").read_text() == "done"


@pytest.mark.parametrize("told", [True, False], ids=["a signal comes", "it only fails"])
def test_a_run_outlives_its_window(cli: Commands, told: bool) -> None:
    """The terminal goes away in mid-run: every write to it fails, and SIGHUP comes, some time later or never."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cli.folder)
        if not told:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        command = [sys.executable, "-m", "runbook.cli", "run", "chatty.yaml", "--yes"]
        os.execve(sys.executable, command, {**cli.variables(), "TERM": "xterm"})
    latest = time.monotonic() + 15
    while not (cli.folder / "flag").exists():
        assert time.monotonic() < latest
        os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Exit.SUCCEEDED
    assert states(cli) == ["succeeded"]
    assert (cli.folder / "mark").exists()
    assert not (cli.folder / "flag").exists()


def test_a_home_that_cannot_be_written_is_a_sentence_and_nothing_is_run(cli: Commands) -> None:
    said = cli("run", "chatty.yaml", environ={"RUNBOOK_HOME": "/dev/null/here"})
    assert said.code == Exit.REFUSED
    assert said.err.splitlines() == [
        "runbook: runs cannot be kept in /dev/null/here: Not a directory",
        "  make it writable, or set RUNBOOK_HOME to another folder",
    ]
    assert not (cli.folder / "mark").exists()
    doctor = cli("doctor", environ={"RUNBOOK_HOME": "/dev/null/here"})
    assert doctor.code == Exit.FAILED
    assert "runs cannot be kept in /dev/null/here: Not a directory" in doctor.out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux'")
def test_an_output_that_takes_nothing_stops_no_run(cli: Commands) -> None:
    command = [sys.executable, "-m", "runbook.cli", "run", "chatty.yaml"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=cli.folder, env=cli.variables(), stdout=full, timeout=20, check=False)
    assert done.returncode == Exit.SUCCEEDED
    assert states(cli) == ["succeeded"]


def test_a_terminal_without_our_signs_gets_question_marks(cli: Commands) -> None:
    said = cli("run", "chatty.yaml", environ={"PYTHONIOENCODING": "latin-1"})
    assert said.code == Exit.SUCCEEDED
    assert "? chatty succeeded" in said.out


def test_doctor_sees_what_a_playbook_lacks_on_this_machine(cli: Commands) -> None:
    cli.write(
        "kube.yaml",
        """
        runbook: 1
        name: kube
        steps:
          - {id: back, action: helm.rollback, with: {namespace: shop, release: web}}
        """,
    )
    bare = {"PATH": "/nonexistent", "HOME": str(cli.folder), "KUBECONFIG": str(cli.folder / "none")}
    said = cli("doctor", "kube.yaml", environ=bare)
    assert said.code == Exit.FAILED
    assert "✗  helm" in said.out
    assert "✗  kubernetes" in said.out


def test_a_file_that_cannot_be_read_says_why(cli: Commands) -> None:
    (cli.folder / "folder.yaml").mkdir()
    (cli.folder / "binary.yaml").write_bytes(b"runbook: 1\n\xff\xfe")
    said = cli("validate", "folder.yaml", "binary.yaml", "none.yaml")
    assert said.code == Exit.INVALID
    assert "folder.yaml cannot be read: Is a directory" in said.err
    assert "binary.yaml:2:1: error: byte 0xff is no UTF-8" in said.err
    assert "there is no file none.yaml" in said.err


def test_without_a_command_there_is_the_help(cli: Commands) -> None:
    said = cli()
    assert said.code == Exit.INVALID
    assert said.err.startswith("Usage: runbook")
    assert "plan FILE" in said.err


def test_runs_say_which_were_undone(cli: Commands) -> None:
    assert cli("run", "chatty.yaml").code == Exit.SUCCEEDED
    undone = cli("undo", "last")
    assert "took back mark" in undone.out
    assert "✓ succeeded, undone" in cli("runs").out
    assert cli("show", "last").out.splitlines()[-1].split()[-1] == cli("verify", "last").out.split()[-1]


def test_resume_passes_over_runs_that_were_only_refused(cli: Commands) -> None:
    """A run is killed, the next one is refused by its lock: `runbook resume` means the one that was killed."""
    cli.write("chatty.yaml", CHATTY.replace("name: chatty", "name: chatty\nlocks: [shop]"))
    killed = cli.start("run", "chatty.yaml")
    until((cli.folder / "flag").exists)
    end(killed)
    refused = cli("run", "chatty.yaml")
    assert refused.code == Exit.REFUSED
    assert "chatty refused" in refused.out
    resumed = cli("resume")
    assert resumed.code == Exit.SUCCEEDED, resumed.err
    assert states(cli) == ["refused", "succeeded"]
    again = cli("resume")
    assert again.code == Exit.REFUSED
    assert "has ended (succeeded); nothing is left to do" in again.err


def test_cancel_and_undo_pass_over_runs_that_were_only_refused(cli: Commands) -> None:
    """The first run goes on, or its changes stand: what is done to `last` is done to that one."""
    text = CHATTY.replace("name: chatty", "name: chatty\nlocks: [shop]").replace("sleep 1;", "sleep 30;")
    cli.write("chatty.yaml", text.replace(", temporary: true", ""))
    going = cli.start("run", "chatty.yaml")
    until((cli.folder / "flag").exists)
    assert cli("run", "chatty.yaml").code == Exit.REFUSED
    told = cli("cancel")
    assert "was told; it cleans up" in told.out, told.out + told.err
    going.communicate(timeout=30)
    assert states(cli) == ["refused", "cancelled"]
    undone = cli("undo", "last", "--yes")
    assert undone.code == Exit.SUCCEEDED, undone.err
    assert "took back flag" in undone.out
    assert not (cli.folder / "flag").exists()


def test_a_sentence_is_not_cut_where_it_begins_like_the_step(cli: Commands) -> None:
    cli.write(
        "h.yaml", "runbook: 1\nname: h\nsteps: [{id: h, action: helm.history, with: {namespace: a, release: b}}]\n"
    )
    refused = cli("run", "h.yaml", environ={"PATH": "/nonexistent"})
    assert refused.code == Exit.REFUSED
    assert "h: helm is not on PATH" in refused.out
    contexts = (
        "contexts: [{name: here, context: {cluster: it}}], clusters: [{name: it, cluster: {server: 'http://it'}}]"
    )
    cli.write("kube", f"{{current-context: here, {contexts}}}\n")
    nowhere = {"PATH": "/nonexistent", "KUBECONFIG": str(cli.folder / "kube")}
    said = cli("run", "h.yaml", "--no-preflight", environ=nowhere)
    assert said.code == Exit.FAILED
    assert "  What      helm: not found" in said.out
    assert " helm: not found" in cli("show", "last").out
    assert "helm: not found" in cli("report", "last").out


def test_the_shell_completes_runs(cli: Commands) -> None:
    assert cli("run", "chatty.yaml").code == Exit.SUCCEEDED
    asked = {"_RUNBOOK_COMPLETE": "bash_complete", "COMP_WORDS": "runbook show ", "COMP_CWORD": "2"}
    assert [line.partition(",")[2][:4] for line in cli(environ=asked).out.splitlines()] == ["last", "2026"]


def test_the_shell_completes_what_may_be_answered(cli: Commands) -> None:
    cli.write("agree.yaml", ASKING)
    assert cli("run", "agree.yaml").code == Exit.WAITING

    def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_RUNBOOK_COMPLETE": "bash_complete"}
        return [entry.partition(",")[2] for entry in cli(environ=words).out.splitlines() if entry]

    waiting = completed("runbook show ")[1:]
    cli.write(
        "after.yaml",
        "runbook: 1\nname: after\ninputs: {one: {type: string, default: x}, two: {type: string, default: y}}\n"
        "steps: [{id: a, action: flow.set, with: {values: {b: 1}}}]\n",
    )
    assert completed("runbook answer ") == ["last", *waiting]
    assert completed("runbook answer last ") == ["part/agree"]
    assert completed("runbook answer last part/agree ") == ["approve", "decline"]
    assert completed("runbook answer last agree d") == ["decline"]
    assert completed("runbook logs last ") == ["say"]
    assert completed("runbook logs nothing ") == []
    assert completed("runbook run after.yaml -i ") == ["one=", "two="]
    assert completed("runbook run after.yaml -i one=1 -i t") == ["two="]
    assert completed("runbook schema sc") == ["scenario"]
    assert "k8s" in completed("runbook schema ")
    assert cli("run", "after.yaml").code == Exit.SUCCEEDED
    assert completed("runbook answer ") == waiting, "the newest run asks nothing"


def test_an_undo_that_was_refused_can_be_tried_again(cli: Commands) -> None:
    """Somebody changed the file; it is put right by hand; the next undo takes the change back, and says so."""
    cli.write(
        "write.yaml", 'runbook: 1\nname: w\nsteps: [{id: a, action: file.write, with: {content: "1", to: mark}}]\n'
    )
    assert cli("run", "write.yaml").code == Exit.SUCCEEDED
    (cli.folder / "mark").write_text("hijacked")
    refused = cli("undo")
    assert refused.code == Exit.FAILED
    assert "could not take back a: " in refused.out
    assert "Left      a (file.write) stands\n" in refused.out  # why stands above
    (cli.folder / "mark").write_text("1")
    again = cli("undo")
    assert again.code == Exit.SUCCEEDED
    assert "Undone    a (file.write)" in again.out
    assert "nothing: no change of this run stands" in again.out
    assert not (cli.folder / "mark").exists()
    assert "✓ succeeded, undone" in cli("runs").out
