"""One run, one owner, one disk: a race to resume as commands, and a disk that fails at every single write of a run."""

from __future__ import annotations

import collections
import os
import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner.journal import Journal, JournalError
from runbook.runner.store import Store
from tests.command import Commands, end, until
from tests.runner_toys import Lab
from tests.test_kill import PLAYBOOK

RACERS = 50

SLOW = """\
runbook: 1
name: slow
locks: [production]
steps:
  - id: work
    action: shell.run
    idempotent: true
    with: {command: "echo x >> times; while ! test -e go; do sleep 0.05; done"}
  - {id: after, action: file.write, with: {to: after.txt, content: done}}
"""


def test_fifty_commands_race_to_resume_one_run(tmp_path: Path) -> None:
    """One does, 49 say who; forks of one process that has imported runbook, so that they really come at once."""
    import runbook.cli.main
    import runbook.cli.running
    import runbook.interpreter.engine
    import runbook.runner.report
    import runbook.runner.session  # noqa: F401  # warm, before the forks

    cli = Commands(tmp_path)
    cli.write("slow.yaml", SLOW)
    killed = cli.start("run", "slow.yaml")
    until((tmp_path / "times").exists)
    time.sleep(0.2)
    end(killed, signal.SIGKILL)
    start_at = time.time() + 1.0
    racers = [_racer(cli, number, start_at) for number in range(RACERS)]
    ended: dict[int, int] = {}
    deadline = time.monotonic() + 60
    while len(ended) < RACERS - 1:
        pid, status = os.waitpid(-1, os.WNOHANG) if len(ended) < RACERS else (0, 0)
        if pid in racers:
            ended[pid] = os.waitstatus_to_exitcode(status)
        assert time.monotonic() < deadline, f"{len(ended)} of {RACERS - 1} gave up"
        time.sleep(0.01)
    (winner,) = set(racers) - set(ended)
    (tmp_path / "go").touch()
    _, status = os.waitpid(winner, 0)
    said = {pid: (tmp_path / f"{number}.out").read_text() for number, pid in enumerate(racers)}
    assert os.waitstatus_to_exitcode(status) == Exit.SUCCEEDED, said[winner]
    assert set(ended.values()) == {Exit.REFUSED}, [said[pid] for pid, code in ended.items() if code != Exit.REFUSED][:1]
    for pid in ended:
        assert re.search(rf"process {winner}\b", said[pid]), said[pid]
    assert (tmp_path / "times").read_text() == "x\n" * 2, (
        "once by the one that was killed, once by the one that resumed"
    )
    assert (tmp_path / "after.txt").read_text() == "done"
    journal = Journal.open(Store(cli.home).find("last").journal, readonly=True)
    assert journal.verify() == []
    assert [event.data["pid"] for event in journal.events() if event.kind == "resumed"] == [winner]
    journal.close()


def _racer(cli: Commands, number: int, start_at: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        out = os.open(cli.folder / f"{number}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        import sys

        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(cli.folder)
        os.environ.clear()
        os.environ.update(cli.variables())
        from runbook.cli.main import main

        while time.time() < start_at:
            time.sleep(0.0005)
        main(["resume"])
    finally:
        os._exit(99)


class Failing:
    """A connection whose disk fails from now on: at the statement `at`, and at every later one that writes."""

    def __init__(self, db: Any, at: str, message: str) -> None:
        self._db, self._at, self._message = db, at, message

    def execute(self, sql: str, *args: Any) -> Any:
        if sql.startswith((self._at, "insert", "update", "delete")) and (self._at != "commit" or sql == "commit"):
            raise sqlite3.OperationalError(self._message)
        return self._db.execute(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def world(lab: Lab) -> dict[str, str]:
    return {path.name: path.read_text() for path in lab.world.glob("o_*")}


def starts(lab: Lab) -> collections.Counter[str]:
    return collections.Counter(line for line in lab.log() if line.startswith(("start", "restart")))


@pytest.mark.parametrize("at", ["begin", "commit"])
@pytest.mark.parametrize("message", ["disk I/O error", "database or disk is full"], ids=["EIO", "ENOSPC"])
def test_a_disk_that_fails_at_any_write_stops_the_run_before_its_next_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, message: str
) -> None:
    """It says so, nothing starts whose intent is not on disk, and later the run goes on to the same end."""
    write = Journal._write
    state = {"count": 0, "fail": 0}

    def failing(self: Journal) -> None:
        state["count"] += 1
        if state["count"] == state["fail"]:
            self._db = Failing(self._db, at, message)  # type: ignore[assignment]  # the fault of this test
        write(self)

    monkeypatch.setattr(Journal, "_write", failing)
    calm = Lab.at(_folder(tmp_path / "calm"))
    assert calm.run(PLAYBOOK).exit == Exit.SUCCEEDED
    writes, wanted, once = state["count"], world(calm), starts(calm)
    assert writes > 10
    stopped = 0
    for fail in range(2, writes + 1):
        lab = Lab.at(_folder(tmp_path / f"at{fail}"))
        state.update(count=0, fail=fail)
        said = _in_a_fork(lab)
        if said is None:
            continue  # a group commit joined what came together: it never came to that write
        assert re.search("reports an error|is full", said), said
        stopped += 1
        state.update(fail=0)
        on_disk = {event.data["args"]["name"] for event in _events(lab) if event.kind == "call.intent"}
        begun = {re.split(r"[ =]", line)[1] for line in starts(lab)}
        assert begun <= on_disk, f"write {fail}: {begun - on_disk} began without an intent on disk"
        before = starts(lab)
        if not any(event.kind == "run.begun" for event in _events(lab)):
            assert not before
            continue
        flying = _in_flight(lab)
        again = lab.resume()
        assert again.exit == Exit.SUCCEEDED, (fail, again.outcome)
        assert world(lab) == wanted, fail
        repeated = starts(lab) - once
        assert sum(repeated.values()) <= flying, f"write {fail}: {repeated} was completed, and was done again"
        assert once - starts(lab) == {}, f"write {fail}: lost"
    assert stopped >= writes - 4


def _in_a_fork(lab: Lab) -> str | None:
    """Run it in a process of its own, whose lease ends with it; what it said when it gave up, None if it did not."""
    told = lab.folder / "told"
    pid = os.fork()
    if pid == 0:
        try:
            lab.run(PLAYBOOK)
            told.unlink(missing_ok=True)
        except JournalError as error:
            told.write_text(error.message)
            time.sleep(0.1)  # what flew has landed, or it never will
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    return told.read_text() if told.exists() else None


def _events(lab: Lab) -> list[Any]:
    journal = Journal.open(lab.store.find("last").journal, readonly=True)
    try:
        assert journal.verify() == []
        return list(journal.events())
    finally:
        journal.close()


def _in_flight(lab: Lab) -> int:
    """How many intents are on disk without a result."""
    keys = {kind: {one.key for one in _events(lab) if one.kind == kind} for kind in ("call.intent", "call.result")}
    return len(keys["call.intent"] - keys["call.result"])


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
