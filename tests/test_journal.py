"""The journal: durable, chained, private, owned by one process at a time."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import InvalidError, RefusedError
from runbook.runner import journal as journal_module
from runbook.runner import leases, processes
from runbook.runner.journal import Journal, JournalError
from runbook.runner.leases import LeaseHeldError, LeaseLostError
from runbook.runner.store import Store, home


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished journal with everything in it that is ever stored."""
    found = tmp_path / "journal.db"
    journal = Journal.create(found, "20260115-033012-p-x7f")
    journal.put_file("p.yaml", b"runbook: 1\n")
    journal.put_file("z.yaml", b"runbook: 1\nname: z\n")
    journal.add("run.begun", "", {"run": "r", "snapshot": journal.snapshot()}, 0.0, 1000.5)
    journal.commit()
    for n in range(20):
        journal.add(
            "step.ended", f"s{n}", {"status": "succeeded", "outputs": {"n": n, "text": "é‹›"}}, n / 3, 1000 + n / 7
        )
    journal.commit()
    journal.send("cancel", {"why": "because"})
    journal.close()
    return found


def test_what_was_added_is_read_back(path: Path) -> None:
    journal = Journal.open(path, readonly=True)
    events = list(journal.events())
    assert [event.seq for event in events] == list(range(1, 22))
    assert events[5].data == {"status": "succeeded", "outputs": {"n": 4, "text": "é‹›"}}
    assert events[5].at == 4 / 3
    assert events[-1].digest == journal.head
    assert journal.file("z.yaml") == "runbook: 1\nname: z\n"
    with pytest.raises(FileNotFoundError):
        journal.file("other.yaml")
    assert [mail.data for mail in journal.mail()] == [{"why": "because"}]
    assert journal.verify() == []
    assert next(journal.events(after=20)).seq == 21


def _cells(path: Path) -> list[tuple[str, str, int, Any]]:
    """Every stored value: table, column, rowid, value."""
    db = sqlite3.connect(path)
    found = []
    tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    # the lease is no record: who holds a run now, written anew every second
    assert tables - {"lease", "sqlite_sequence"} == {"events", "files", "mailbox", "meta"}
    for table in ("events", "files", "mailbox"):
        columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
        for column in columns:
            if (table, column) == ("mailbox", "id"):
                continue  # only orders commands that nobody has taken yet
            found += [(table, column, row[0], row[1]) for row in db.execute(f"select rowid, {column} from {table}")]
    found += [("meta", "value", row[0], row[1]) for row in db.execute("select rowid, value from meta")]
    db.close()
    return found


def test_a_flipped_byte_in_any_stored_value_is_found(path: Path) -> None:
    clean = path.read_bytes()
    missed = []
    cells = _cells(path)
    for table, column, row, value in cells:
        for position in {0, len(value) // 2, len(value) - 1} if isinstance(value, (str, bytes)) and value else {0}:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.write_bytes(clean)
            db = sqlite3.connect(path, isolation_level=None)
            db.execute(f"update {table} set {column} = ? where rowid = ?", (_flipped(value, position), row))
            db.close()
            journal = Journal.open(path, readonly=True)
            if not journal.verify():
                missed.append((table, column, row, position))
            journal.close()
    assert len(cells) > 150
    assert missed == []


def _flipped(value: Any, position: int) -> Any:
    if isinstance(value, str):
        if not value:
            return "x"
        return value[:position] + chr(ord(value[position]) ^ 1) + value[position + 1 :]
    if isinstance(value, bytes):
        return value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]
    return value + 1024 if isinstance(value, int) else value + 0.001


def test_a_row_that_is_gone_and_one_that_moved_are_found(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("delete from events where seq = 7")
    db.close()
    assert any("event 7 is missing" in line for line in Journal.open(path, readonly=True).verify())


def test_a_damaged_file_is_a_sentence_not_a_traceback(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:6000] = os.urandom(6000 - 4096)
    path.write_bytes(bytes(raw))
    try:
        journal = Journal.open(path, readonly=True)
    except JournalError:
        return
    assert journal.verify() != []


def test_an_older_tool_refuses_a_newer_journal_and_a_newer_one_migrates(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="newer runbook"):
        Journal.open(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"pragma user_version = {journal_module.SCHEMA}")
    db.close()
    monkeypatch.setattr(journal_module, "SCHEMA", journal_module.SCHEMA + 1)
    monkeypatch.setattr(journal_module, "MIGRATIONS", {journal_module.SCHEMA - 1: ("create table more(x)",)})
    assert len(list(Journal.open(path).events())) == 21
    db = sqlite3.connect(path)
    assert db.execute("select count(*) from more").fetchone() == (0,)
    db.close()


def test_only_the_holder_of_the_lease_writes(path: Path) -> None:
    first, second = Journal.open(path), Journal.open(path)
    first.take()
    with pytest.raises(LeaseHeldError, match=str(os.getpid())):
        second.take()
    first.add("beat", "", {}, 1.0, 1.0)
    first.commit()
    first.release()
    second.take()
    second.add("beat", "", {}, 2.0, 2.0)
    second.commit()
    assert second.verify() == []


def test_who_lost_the_lease_writes_nothing_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = Journal.open(path), Journal.open(path)
    slow.take()
    real = processes.clock
    monkeypatch.setattr(processes, "clock", lambda: real() + leases.TTL + 1)  # it was stopped for so long
    fast.take()
    slow.add("call.intent", "x", {}, 1.0, 1.0)
    with pytest.raises(LeaseLostError):
        slow.commit()
    with pytest.raises(JournalError):
        slow.add("call.intent", "y", {}, 1.0, 1.0)
    fast.add("beat", "", {}, 1.0, 1.0)
    fast.commit()
    assert [event.kind for event in fast.events(after=21)] == ["beat"]
    assert fast.verify() == []


def test_a_stopped_clock_renews_the_lease_before_it_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(path)
    journal.take()
    real = processes.clock
    monkeypatch.setattr(processes, "clock", lambda: real() + leases.TTL + 1)
    journal.add("beat", "", {}, 1.0, 1.0)
    journal.commit()  # nobody took it meanwhile: it is ours, and renewed
    held = Journal.open(path).holder()
    assert held is not None
    assert held.clock > real() + leases.TTL


RACER = """
import sys, time
from pathlib import Path
from runbook.runner.journal import Journal
from runbook.runner.leases import LeaseHeldError
journal = Journal.open(Path(sys.argv[1]))
while time.time() < float(sys.argv[2]):
    time.sleep(0.001)
try:
    journal.take()
except LeaseHeldError as held:
    print("held", held.message)
else:
    print("mine", flush=True)
    journal.add("beat", "", {}, 1.0, 1.0)
    journal.commit()
    sys.stdin.read()
"""


def test_fifty_processes_race_for_one_run_and_forty_nine_say_who_has_it(path: Path) -> None:
    start = time.time() + 6
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(50)
    ]
    lines = [(racer.pid, racer.stdout.readline().strip()) for racer in racers if racer.stdout]
    for racer in racers:
        racer.communicate(timeout=60)
    winners = [pid for pid, line in lines if line == "mine"]
    assert len(winners) == 1
    assert sum(f"process {winners[0]}," in line for _, line in lines) == 49
    assert Journal.open(path).verify() == []


def test_a_dead_process_holds_nothing(path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from runbook.runner.journal import Journal
Journal.open(Path({str(path)!r})).take()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=30)
    journal = Journal.open(path)
    assert journal.holder() is None
    journal.take()


def test_a_full_disk_stops_before_the_next_effect_and_the_run_can_go_on_later(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes writes fail as a full disk does: first short, then not at all. Really, in the kernel."""
    code = f"""
import resource, signal
from pathlib import Path
from runbook.runner.journal import Journal, JournalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(tmp_path / "journal.db")!r})
journal = Journal.create(path, "r")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
done = 0
try:
    for n in range(1000):
        journal.add("step.ended", str(n), {{"text": "x" * 1000}}, float(n), float(n))
        journal.commit()
        done += 1
except JournalError as error:
    print(done, error.message)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    done, _, message = found.partition(" ")
    assert "cannot be written" in message
    journal = Journal.open(tmp_path / "journal.db")
    assert len(list(journal.events())) == int(done) > 10
    assert journal.verify() == []
    journal.take()
    journal.add("resumed", "", {}, 1.0, 1.0)
    journal.commit()
    assert journal.verify() == []


class _Failing:
    """A connection whose disk fails at the n-th statement that writes."""

    def __init__(self, db: sqlite3.Connection, at: str, message: str) -> None:
        self._db, self._at, self._message = db, at, message

    def execute(self, sql: str, *args: Any) -> Any:
        if sql.startswith(self._at):
            raise sqlite3.OperationalError(self._message)
        return self._db.execute(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("disk I/O error", "reports an error"),
        ("database or disk is full", "the disk is full"),
        ("attempt to write a readonly database", "read-only"),
        ("unable to open database file", "read-only"),
    ],
)
@pytest.mark.parametrize("at", ["begin", "commit"])
def test_a_failing_disk_is_said_and_nothing_of_the_turn_is_kept(
    path: Path, at: str, message: str, sentence: str
) -> None:
    journal = Journal.open(path)
    journal.take()
    journal._db = _Failing(journal._db, at, message)  # type: ignore[assignment]
    journal.add("call.intent", "x", {}, 1.0, 1.0)
    with pytest.raises(JournalError, match=sentence):
        journal.commit()
    with pytest.raises(JournalError):
        journal.commit()
    assert len(list(Journal.open(path).events())) == 21


def test_a_read_only_disk_can_still_be_read(path: Path) -> None:
    folder = path.parent
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.chmod(0o400)
    folder.chmod(0o500)
    try:
        assert len(list(Journal.open(path, readonly=True).events())) == 21
    finally:
        folder.chmod(0o700)


# -- where runs live


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = Store(tmp_path / "home").new_run("p")
        journal = Journal.create(folder.journal, folder.id)
        journal.add("beat", "", {}, 0.0, 0.0)
        journal.commit()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").rglob("*")}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_an_open_home_is_closed_if_it_is_ours_and_refused_if_others_may_write(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o755)
    ours.chmod(0o755)
    Store(ours).new_run("p")
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    ours.chmod(0o755)
    Store(ours).runs()
    Store(ours).new_run("p")
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "something").touch()
    shared.chmod(0o755)
    with pytest.raises(RefusedError, match="open to others"):
        Store(shared).new_run("p")
    shared.chmod(0o1777)
    with pytest.raises(RefusedError, match="open to others"):
        Store(shared).new_run("p")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_runs_are_found_by_a_prefix_their_tail_or_last(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    with pytest.raises(InvalidError, match="no run yet"):
        store.find("last")
    folders = []
    for _ in range(3):
        folders.append(store.new_run("Emergency rollback!"))
        Journal.create(folders[-1].journal, folders[-1].id).close()
        time.sleep(0.002)  # an id tells the 1296th part of a second
    assert [run.id for run in store.runs()] == [folder.id for folder in folders], "oldest first, also within a second"
    assert folders[0].id[8] == "-"
    assert "-emergency-rollback-" in folders[0].id
    assert store.find(folders[1].id[-3:]).id == folders[1].id
    assert store.find("last").id == max(folder.id for folder in folders)
    with pytest.raises(InvalidError, match="fits 3 runs"):
        store.find(folders[0].id[:4])
    with pytest.raises(InvalidError, match="no run xyz"):
        store.find("xyz")


def test_home_is_where_the_xdg_specification_says() -> None:
    assert home({"RUNBOOK_HOME": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}) == Path("/a")
    assert home({"XDG_STATE_HOME": "/b", "HOME": "/c"}) == Path("/b/runbook")
    assert home({"XDG_STATE_HOME": "b", "HOME": "/c"}) == Path("/c/.local/state/runbook")
    assert home({"HOME": "/c"}) == Path("/c/.local/state/runbook")
