"""kill -9 at every journal write, then resume: nothing done is repeated, nothing is lost, the world is the same."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.runner import processes
from runbook.runner.journal import Journal
from runbook.runner.store import Store
from tests.runner_toys import Lab

PLAYBOOK = """
runbook: 1
name: killed
locks: [rollback/production]
steps:
  - {id: first, action: toy.set, with: {name: a, value: one}}
  - {id: read, action: toy.get, with: {name: a}}
  - id: both
    parallel:
      - {id: left, action: toy.set, with: {name: b, value: two, seconds: 0.01}}
      - {id: right, action: toy.set, with: {name: c, value: "{{ steps.read.outputs.value }}"}}
  - {id: pause, action: flow.wait, with: {for: 20ms}}
  - {id: again, action: toy.set, with: {name: d, value: four, times: 1}, retry: {delay: 10ms}}
  - {id: restart, action: toy.restart, with: {name: web}}
  - {id: tell, action: toy.tell, with: {name: slack}}
finally: {steps: [{id: last, action: toy.set, with: {name: z, value: end}}]}
"""

FAILING = """
runbook: 1
name: failing
on_failure: {undo: true}
steps:
  - {id: first, action: toy.set, with: {name: a, value: one}}
  - {id: second, action: toy.set, with: {name: b, value: two}, temporary: true}
  - {id: third, action: toy.set, with: {name: a, value: three}}
  - {id: restart, action: toy.restart, with: {name: web}}
  - {id: bad, action: toy.get, with: {}, fail_when: "true"}
finally: {steps: [{id: last, action: toy.set, with: {name: z, value: end}}]}
"""


def child(folder: Path, what: str, at: int = 0, when: str = "after", **environ: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runner_child", str(folder), what, str(at), when],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode == -signal.SIGKILL:
        return done.returncode, {}
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def world(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "world").glob("o_*")}


def prepared(folder: Path, text: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "p.yaml").write_text(text)
    Lab.at(folder)
    return folder


def in_flight(folder: Path) -> int:
    """How many intents are on record without a result: only of these nobody knows."""
    runs = Store(folder / "home").runs()
    if not runs:
        return 0
    journal = Journal.open(runs[-1].journal, readonly=True)
    try:
        keys = {kind: {e.key for e in journal.events() if e.kind == kind} for kind in ("call.intent", "call.result")}
        return len(keys["call.intent"] - keys["call.result"])
    finally:
        journal.close()


def effects(folder: Path) -> collections.Counter[str]:
    """What was done to the world, and how often."""
    return collections.Counter(
        line for line in Lab.at(folder).log() if line.startswith(("start ", "restart ", "tell "))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("text", "exit_"), [(PLAYBOOK, 0), (FAILING, 1)], ids=["succeeds", "fails and undoes"])
def test_killed_at_every_journal_write_and_resumed_the_world_is_as_if_never_killed(
    tmp_path: Path, text: str, exit_: int
) -> None:
    calm = prepared(tmp_path / "calm", text)
    code, ended = child(calm, "start")
    assert code == exit_, ended
    writes, expected, calm_effects = ended["writes"], world(calm), effects(calm)
    assert writes > 10
    assert len(calm_effects) > 5
    kills = 0
    for at in range(1, writes + 1):
        for when in ("before", "after") if at % 3 == 0 else ("after",):
            folder = prepared(tmp_path / "killed", text)
            code, found = child(folder, "start", at, when)
            if code != -signal.SIGKILL:
                assert code == exit_, found  # fewer writes this time: group commit joins what comes together
                continue
            kills += 1
            flying = in_flight(folder)
            code, found = child(folder, "resume")
            if found.get("error") == "RefusedError":
                if "before it began" in found["message"]:
                    assert at == 1, found
                    continue
                assert "has ended" in found["message"], found  # its end was on disk, a write earlier by group commit
                code = exit_
            assert code == exit_, (at, when, found)
            assert world(folder) == expected, (at, when)
            assert calm_effects - effects(folder) == {}, (at, when, "lost")
            repeated = effects(folder) - calm_effects
            assert sum(repeated.values()) <= flying, (at, when, repeated, "was completed, and was done again")
            journal = Journal.open(Store(folder / "home").find("last").journal, readonly=True)
            assert journal.verify() == []
            journal.close()
    assert kills >= writes


@pytest.mark.slow
def test_killed_twice_and_resumed(tmp_path: Path) -> None:
    calm = prepared(tmp_path / "calm", FAILING)
    _, ended = child(calm, "start")
    for first, second in ((4, 2), (8, 3), (12, 2)):
        folder = prepared(tmp_path / "killed", FAILING)
        assert child(folder, "start", first)[0] == -signal.SIGKILL
        child(folder, "resume", second)
        code, found = child(folder, "resume")
        assert code == 1 or found.get("error") == "RefusedError", found
        assert world(folder) == world(calm)
    assert ended["exit"] == 1


@pytest.mark.slow
def test_an_undo_that_is_killed_is_resumed(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "lab", PLAYBOOK)
    (folder / "world" / "o_a").write_text("old")
    assert child(folder, "start")[0] == 0
    for at in (2, 3, 4):
        assert child(folder, "undo", at)[0] == -signal.SIGKILL
    code, found = child(folder, "resume")
    assert code == 0, found
    assert world(folder) == {"o_a": "old"}


OPAQUE = """
runbook: 1
name: doubt
steps:
  - {id: n, action: toy.note, with: {name: n, seconds: 0.1}}
  - {id: after, action: toy.set, with: {name: a, value: one}}
"""


@pytest.mark.parametrize(
    ("policy", "exit_", "lines"), [("repeat", 0, 2), ("done", 0, 1), ("fail", 1, 1), ("ask", 6, 1)]
)
def test_an_opaque_intent_without_a_result_is_in_doubt(tmp_path: Path, policy: str, exit_: int, lines: int) -> None:
    folder = prepared(tmp_path / "lab", OPAQUE)
    intent = 1
    while not any(line == "start n" for line in Lab.at(folder).log()):  # the write that puts the intent on disk
        folder = prepared(folder, OPAQUE)
        assert child(folder, "start", intent + 1, "before")[0] == -signal.SIGKILL
        intent += 1
    code, found = child(folder, "resume", IN_DOUBT=policy)
    assert code == exit_, found
    assert sum(line == "start n" for line in Lab.at(folder).log()) == lines
    assert (world(folder) == {"o_a": "one"}) == (exit_ == 0)
    if policy == "ask":
        assert found["status"] == "waiting"


SHELL = """
runbook: 1
name: orphan
steps:
  - id: n
    action: shell.run
    idempotent: true
    with: {command: "echo $$ >> $WORLD/pids; sleep ${NAP:-0}; sleep ${NAP:-0}"}
"""


def test_processes_of_a_dead_run_are_ended_before_anything_is_repeated(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "lab", SHELL.replace("${NAP:-0}", "$(test -e $WORLD/go && echo 0 || echo 60)"))
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.runner_child", str(folder), "start", "0", "after"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.DEVNULL,
    )
    pids = folder / "world" / "pids"
    until = time.monotonic() + 20
    while not pids.exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    run.kill()
    run.wait(10)
    orphan = int(pids.read_text().split()[0])
    group = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _group(pid) == orphan]
    assert len(group) == 2  # the shell and its sleep: they outlived their run
    (folder / "world" / "go").touch()
    code, found = child(folder, "resume")
    assert code == 0, found
    assert [pid for pid in group if processes.started(pid)] == []  # a zombie that nobody reaped is none
    assert len(pids.read_text().split()) == 2


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


HANG = """
runbook: 1
name: hang
steps:
  - {id: n, action: toy.hang, with: {}, timeout: 200ms}
"""


@pytest.mark.timed
def test_a_thread_that_never_returns_does_not_hold_the_exit(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "lab", HANG)
    began = time.monotonic()
    code, found = child(folder, "start")
    assert (code, found["status"]) == (1, "failed")
    assert time.monotonic() - began < 5


def test_a_run_that_somebody_runs_is_not_resumed(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "lab", HANG.replace("200ms", "30s"))
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.runner_child", str(folder), "start", "0", "after"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 20
        while not Lab.at(folder).log() and time.monotonic() < until:
            time.sleep(0.05)
        code, found = child(folder, "resume")
        assert (code, found["error"]) == (3, "LeaseHeldError")
        assert f"process {run.pid}," in found["message"]
    finally:
        run.kill()
        run.wait(10)


def test_ctrl_c_cancels_and_the_run_cleans_up(tmp_path: Path) -> None:
    text = HANG.replace("toy.hang", "toy.polite").replace("200ms", "30s") + (
        "finally: {steps: [{id: last, action: toy.set, with: {name: z, value: end}}]}\n"
    )
    folder = prepared(tmp_path / "lab", text)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.runner_child", str(folder), "start", "0", "after"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 20
    while not Lab.at(folder).log() and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=20)
    assert run.returncode == 4
    assert json.loads(out)["status"] == "cancelled"
    assert world(folder) == {"o_z": "end"}


FULL = """
runbook: 1
name: full
steps:
  - id: each
    foreach: {items: "{{ range(60) | list }}", as: i}
    steps:
      - {id: a, action: toy.set, with: {name: "n{{ i }}", value: "{{ 'x' * 2000 }}"}}
"""


def test_a_full_disk_stops_the_run_before_its_next_effect_and_it_goes_on_later(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the kernel itself fails the journal, with short writes and then none, as a full disk does."""
    folder = prepared(tmp_path / "lab", FULL)
    code, found = child(folder, "start", FILE_LIMIT="150000")
    assert (code, found["error"]) == (1, "JournalError")
    assert "cannot be written" in found["message"]
    events = Lab.at(folder).events()
    intents = {event.key for event in events if event.kind == "call.intent"}
    begun = [line for line in Lab.at(folder).log() if line.startswith("start")]
    assert 0 < len(begun) == len(set(begun)) <= len(intents)  # every effect that started has its intent on disk
    before = collections.Counter(begun)
    code, found = child(folder, "resume")
    assert code == 0, found
    assert len(world(folder)) == 60
    repeated = collections.Counter(line for line in Lab.at(folder).log() if line.startswith("start")) - before
    assert sum(repeated.values()) >= 60 - len(begun)
    assert max(collections.Counter(Lab.at(folder).log()).values()) <= 2  # only what was in flight could be done again
