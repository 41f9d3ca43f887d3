"""The event log of one run: a SQLite file (WAL, synchronous=FULL). One transaction is one turn: the group commit.

Each event carries the digest of itself and of the one before, so that a later change shows. The lease lives in the same
file and is confirmed in the same transaction: whoever lost the run cannot write one more event.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runbook.interpreter.errors import InternalError, RunbookError
from runbook.interpreter.frozen import frozen
from runbook.runner import leases

SCHEMA = 1
BUSY = 20.0  # seconds to wait for another writer: the mailbox's senders, a race to resume

TABLES = (
    """create table meta(name text primary key, value text not null)""",
    """create table events(
      seq integer primary key, kind text not null, key text not null, data text not null,
      at real not null, wall real not null, digest blob not null)""",
    """create table files(name text primary key, content blob not null, digest blob not null)""",
    """create table mailbox(
      id integer primary key autoincrement, kind text not null, data text not null, wall real not null,
      digest blob not null)""",
    leases.TABLE,
)
MIGRATIONS: Mapping[int, tuple[str, ...]] = {}  # from this version to the next: statements


class JournalError(RunbookError):
    """The journal cannot be written or read: a full or broken disk, a damaged file."""


class NewerJournalError(JournalError):
    """A newer runbook wrote it; it is none the worse for that."""


class DamagedJournalError(JournalError):
    """What is there is no journal any more."""


@frozen
class Event:
    """One line of a run's history. `at`: running seconds. `wall`: Unix time. seq 0: passing (a log line), no record."""

    seq: int
    kind: str
    key: str
    data: Mapping[str, Any]
    at: float
    wall: float
    digest: str = ""


@frozen
class Mail:
    """A command from another process: kind cancel, preempt or answer."""

    id: int
    kind: str
    data: Mapping[str, Any]
    wall: float


_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode
_decoder = json.JSONDecoder()


def _loads(text: str) -> Any:
    """What `_dumps` wrote: no white space around it, so the decoder's own checks for it are left out."""
    return _decoder.raw_decode(text)[0]


def _chain(before: bytes, event: tuple[int, str, str, str, float, float]) -> bytes:
    """Lengths stand in front, so that no two different events give the same bytes."""
    seq, kind, key, text, at, wall = event
    head = f"{seq} {len(kind)} {len(key)} {at!r} {wall!r}\n{kind}{key}{text}"
    return hashlib.sha256(before + head.encode()).digest()


class Journal:
    """The journal of one run. Open it with `create` (a new run), `open` (to write) or `open(readonly=True)`."""

    def __init__(self, path: Path, db: sqlite3.Connection, genesis: bytes) -> None:
        self.path = path
        self._db = db
        self._genesis = genesis
        self._seq = 0
        self._head = genesis
        self._pending: list[tuple[Any, ...]] = []
        self._fresh: list[Event] = []
        self._files: list[tuple[str, bytes, bytes]] = []
        self._taken: set[int] = set()  # mail that is deleted with the next commit
        self._lease: leases.Lease | None = None
        self._broken: str | None = None

    # -- open and close

    @classmethod
    def create(cls, path: Path, run: str) -> Journal:
        """A new journal at `path` (mode 0600), its lease taken by this process. FileExistsError when there is one."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            db = _connect(path, readonly=False)
            db.execute("begin immediate")
            for table in TABLES:
                db.execute(table)
            db.execute(f"pragma user_version = {SCHEMA}")
            db.execute("insert into meta values ('run', ?)", (run,))
            lease = leases.Lease.take(db)
            db.execute("commit")
        except sqlite3.Error as error:
            raise _failed(path, error) from error
        journal = cls(path, db, _genesis(SCHEMA, run))
        journal._lease = lease
        return journal

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Journal:
        """An existing journal. Writing needs `take` first. JournalError when it is damaged, newer, or not there."""
        if not path.exists():
            raise JournalError(f"there is no journal at {path}")
        try:
            db = _connect(path, readonly=readonly)
            version = int(db.execute("pragma user_version").fetchone()[0])
            if version > SCHEMA:
                raise NewerJournalError(
                    f"{path} was written by a newer runbook (journal version {version}, this one knows {SCHEMA})",
                    "use the newer runbook for this run",
                )
            if version < SCHEMA and not readonly:
                _migrate(db, version)
            row = db.execute("select value from meta where name = 'run'").fetchone()
            journal = cls(path, db, _genesis(version, str(row[0]) if row else ""))
            journal._rewind()
        except sqlite3.Error as error:
            raise _failed(path, error) from error
        return journal

    def take(self) -> None:
        """Take the lease: from here on this process runs the run. LeaseHeldError says who does."""
        try:
            self._db.execute("begin immediate")
            try:
                self._lease = leases.Lease.take(self._db)
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")
            self._rewind()  # the one before us may have written meanwhile
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error

    def release(self) -> None:
        """Give the lease back; never fails, an unreleased lease of a dead process is free anyway."""
        if self._lease is not None:
            with contextlib.suppress(sqlite3.Error):
                self._lease.release(self._db)
            self._lease = None

    def close(self) -> None:
        self.release()
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def holder(self) -> leases.Holder | None:
        """Who runs it right now; None when nobody alive does."""
        held = leases.holder(self._db)
        return held if held is not None and held.alive() else None

    def _rewind(self) -> None:
        row = self._db.execute("select seq, digest from events order by seq desc limit 1").fetchone()
        self._seq, self._head = (int(row[0]), bytes(row[1])) if row else (0, self._genesis)

    # -- write

    def add(self, kind: str, key: str, data: Mapping[str, Any], at: float, wall: float) -> int:
        """Append an event (JSON data); it is on disk after the next `commit`. Returns its number."""
        if self._broken:
            raise JournalError(self._broken)
        text = _dumps(data)
        self._seq += 1
        self._head = _chain(self._head, (self._seq, kind, key, text, at, wall))
        self._pending.append((self._seq, kind, key, text, at, wall, self._head))
        self._fresh.append(Event(self._seq, kind, key, data, at, wall, self._head.hex()))
        return self._seq

    def put_file(self, name: str, content: bytes) -> None:
        """Keep a file of the playbook as it was; on disk after the next `commit`."""
        self._files.append((name, content, hashlib.sha256(content).digest()))

    def commit(self) -> list[Event]:
        """Make everything since the last commit durable, in one transaction, if the lease is still ours.

        Returns the events. JournalError when the disk does not take it (nothing of the turn is on disk then, and this
        journal takes no more); LeaseLostError when somebody else runs this run.
        """
        if self._broken:
            raise JournalError(self._broken)
        if not (self._pending or self._files or self._taken):
            return []
        self._write()
        fresh, self._fresh = self._fresh, []
        self._pending, self._files, self._taken = [], [], set()
        return fresh

    def beat(self) -> None:
        """Keep the lease alive while nothing happens."""
        if self._lease is not None and self._lease.aged() and not self._pending:
            self._write()

    def _write(self) -> None:
        db = self._db
        try:
            db.execute("begin immediate")
            if self._lease is None:
                raise InternalError("a journal was written without its lease")
            self._lease.confirm(db)
            if self._pending:
                db.executemany("insert into events values (?, ?, ?, ?, ?, ?, ?)", self._pending)
            if self._files:
                db.executemany("insert or replace into files values (?, ?, ?)", self._files)
            if self._taken:
                db.executemany("delete from mailbox where id = ?", [(number,) for number in self._taken])
            db.execute("commit")
        except sqlite3.Error as error:
            self._break(_failed(self.path, error).message)
            raise _failed(self.path, error) from error
        except BaseException as error:
            self._break(str(error))
            raise

    def _break(self, why: str) -> None:
        """After a failed commit nothing may be added: what is in memory and what is on disk differ."""
        self._broken = why
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("rollback")

    # -- read

    @property
    def head(self) -> str:
        """The digest of the last event, as hexadecimal text."""
        return self._head.hex()

    @property
    def run(self) -> str:
        row = self._db.execute("select value from meta where name = 'run'").fetchone()
        return str(row[0]) if row else ""

    def events(self, after: int = 0) -> Iterator[Event]:
        """What is on disk, in order, from the event after number `after`."""
        rows = self._db.execute(
            "select seq, kind, key, data, at, wall, digest from events where seq > ? order by seq", (after,)
        )
        try:
            for seq, kind, key, text, at, wall, digest in rows:
                yield Event(seq, kind, key, _loads(text), at, wall, bytes(digest).hex())
        except (sqlite3.Error, ValueError) as error:
            raise _failed(self.path, error) from error

    def history(self, unread: frozenset[str] = frozenset()) -> Iterator[Event]:
        """What is on disk, each event checked against its digest while it is read (what a resume goes by).

        Events of the kinds in `unread` come without their data: it is not parsed. InternalError at the first change.
        """
        digest, expected = self._genesis, 0
        rows = self._db.execute("select seq, kind, key, data, at, wall, digest from events order by seq")
        try:
            for seq, kind, key, text, at, wall, stored in rows:
                expected += 1
                digest = _chain(digest, (seq, kind, key, text, at, wall))
                if digest != stored or seq != expected:
                    raise InternalError(
                        f"the journal of run {self.run} was changed: event {expected} is not what was written",
                        f"`runbook verify {self.run}` says what else; nothing was touched",
                    )
                yield Event(seq, kind, key, {} if kind in unread else _loads(text), at, wall)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise _failed(self.path, error) from error

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind, without reading the others."""
        row = self._db.execute(
            "select seq, key, data, at, wall, digest from events where kind = ? order by seq desc limit 1", (kind,)
        ).fetchone()
        if row is None:
            return None
        seq, key, text, at, wall, digest = row
        return Event(seq, kind, key, json.loads(text), at, wall, bytes(digest).hex())

    def file(self, name: str) -> str:
        """A file of the snapshot as text. FileNotFoundError when the run did not read it."""
        row = self._db.execute("select content from files where name = ?", (name,)).fetchone()
        if row is None:
            raise FileNotFoundError(name)
        return bytes(row[0]).decode()

    def files(self) -> dict[str, bytes]:
        return {name: bytes(content) for name, content in self._db.execute("select name, content from files")}

    def snapshot(self) -> str:
        """One digest over all files of the snapshot, for `run.begun`."""
        everything = {**self.files(), **{name: content for name, content, _ in self._files}}
        return snapshot_digest(everything)

    # -- the mailbox

    def send(self, kind: str, data: Mapping[str, Any]) -> None:
        """Leave a command for the process that runs this run, or that resumes it. Durable when it returns."""
        text, wall = _dumps(data), time.time()
        try:
            self._db.execute(
                "insert into mailbox(kind, data, wall, digest) values (?, ?, ?, ?)",
                (kind, text, wall, _chain(b"", (0, kind, "", text, 0.0, wall))),
            )
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error

    def mail(self) -> list[Mail]:
        """Commands that nobody has taken yet. A damaged one is skipped: `verify` names it."""
        rows = self._db.execute("select id, kind, data, wall, digest from mailbox order by id")
        return [
            Mail(number, kind, json.loads(text), wall)
            for number, kind, text, wall, digest in rows
            if number not in self._taken and bytes(digest) == _chain(b"", (0, kind, "", text, 0.0, wall))
        ]

    def taken(self, mail: Mail) -> None:
        """This command was acted on: it goes with the commit that holds its effect."""
        self._taken.add(mail.id)

    def changed(self) -> int:
        """A number that moves when another process wrote: cheap to ask again and again."""
        return int(self._db.execute("pragma data_version").fetchone()[0])

    # -- verify

    def verify(self) -> list[str]:
        """Every stored value against its digest. Sentences, in order; empty = nothing was changed."""
        try:
            found = [*self._verify_structure(), *self._verify_events(), *self._verify_files(), *self._verify_mailbox()]
            return [*found, *self._verify_kept()]
        except (sqlite3.Error, OSError, UnicodeDecodeError, OverflowError) as error:
            return [f"the journal cannot be read to its end: {error}"]

    def _verify_structure(self) -> Iterator[str]:
        for (line,) in self._db.execute("pragma integrity_check(10)"):
            if line != "ok":
                yield f"the database is damaged: {line}"

    def _verify_events(self) -> Iterator[str]:
        digest, expected = self._genesis, 1
        rows = self._db.execute("select seq, kind, key, data, at, wall, digest from events order by seq")
        for seq, kind, key, text, at, wall, stored in rows:
            if seq != expected:
                yield f"event {expected} is missing"
                expected = seq
            expected += 1
            try:
                digest = _chain(digest, (seq, kind, key, text, at, wall))
            except (TypeError, AttributeError):
                digest = b""
            if digest != stored:
                yield f"event {seq} ({kind} {key}) or the one before it was changed after it was written"
                # from here on by what is stored: one change is one finding, not all that follow
                digest = bytes(stored) if isinstance(stored, bytes) else b""

    def _verify_files(self) -> Iterator[str]:
        files: dict[str, bytes] = {}
        for name, content, stored in self._db.execute("select name, content, digest from files"):
            files[str(name)] = bytes(content) if isinstance(content, bytes) else str(content).encode()
            if hashlib.sha256(files[str(name)]).digest() != stored:
                yield f"the stored file {name} was changed"
        begun = self._db.execute("select data from events where kind = 'run.begun' order by seq limit 1").fetchone()
        if begun is not None:
            with contextlib.suppress(ValueError):
                recorded = json.loads(begun[0]).get("snapshot")
                if recorded is not None and recorded != snapshot_digest(files):
                    yield "the stored files are not the ones that the run began with"

    def _verify_mailbox(self) -> Iterator[str]:
        for number, kind, text, wall, stored in self._db.execute("select id, kind, data, wall, digest from mailbox"):
            try:
                intact = _chain(b"", (0, kind, "", text, 0.0, wall)) == stored
            except (TypeError, AttributeError):
                intact = False
            if not intact:
                yield f"command {number} in the mailbox was changed"

    def _verify_kept(self) -> Iterator[str]:
        """Bytes that changes kept beside the journal for their inverses; each file's name is its digest."""
        kept = self.path.parent / "kept"
        for path in sorted(kept.iterdir()) if kept.is_dir() else ():
            if not path.name.startswith(".") and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
                yield f"the kept bytes {path.name[:12]} were changed"


def snapshot_digest(files: Mapping[str, bytes]) -> str:
    """One digest over named files, independent of their order."""
    lines = [f"{len(name)} {name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _genesis(version: int, run: str) -> bytes:
    """What the first event hangs from: the journal's version and run are covered by the chain as well."""
    return hashlib.sha256(f"runbook journal {version} {run}".encode()).digest()


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """Open the file; a read-only disk (no room for the shared memory file) is read as it lies there."""
    if not readonly:
        db = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        return db
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY, isolation_level=None)
    try:
        db.execute("pragma user_version").fetchone()
    except sqlite3.OperationalError:
        db.close()
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return db


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """One version after the other, in one transaction."""
    db.execute("begin immediate")
    for step in range(version, SCHEMA):
        if step not in MIGRATIONS:
            db.execute("rollback")
            raise JournalError(f"this journal has version {version}, which this runbook cannot read")
        for statement in MIGRATIONS[step]:
            db.execute(statement)
    db.execute(f"pragma user_version = {SCHEMA}")
    db.execute("commit")


_CARE = "look after the disk, then resume the run"


def _failed(path: Path, error: Exception) -> JournalError:
    """A sentence for the user about what the disk said."""
    text = str(error)
    if "full" in text:
        return JournalError(
            f"the journal cannot be written, the disk is full ({path})", "make room, then resume the run"
        )
    if "readonly" in text or "read-only" in text or ("unable to open" in text and path.is_file()):
        hint = "make it, its folder and its disk writable, then try again"
        return JournalError(f"the journal cannot be written, it is read-only ({path})", hint)
    if "I/O" in text:
        return JournalError(f"the journal cannot be written, the disk reports an error ({path}: {text})", _CARE)
    if "malformed" in text or "not a database" in text or "no such table" in text:
        return DamagedJournalError(f"the journal is damaged ({path}: {text})", "`runbook verify` says what is left")
    return JournalError(f"the journal failed ({path}: {text})")
