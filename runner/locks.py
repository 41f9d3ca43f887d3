"""Named locks between runs: a SQLite file under home, with expiry and fencing tokens.

They hold on one machine (the file must not lie on a network disk): the command line says so. A lock belongs to a run,
not to a process: a resumed run takes its locks back, and a run that waits for a person keeps them, parked and visible.
The token of a name grows each time another run gets it, so that a resumed run knows whether somebody held it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runbook.interpreter.errors import RunbookError
from runbook.interpreter.frozen import frozen
from runbook.runner import processes
from runbook.runner.journal import Journal, JournalError
from runbook.runner.lock_store import Holding

if TYPE_CHECKING:
    from runbook.runner.preempting import Ender

TTL = 15.0  # seconds that a lock lives without its run; a dead run's children may still act for a while
RENEW = 4.0

_TABLE = """create table if not exists locks(
  name text primary key, token integer not null, run text not null, folder text not null, parked integer not null,
  host text not null, boot text not null, pid integer not null, start text not null, user text not null,
  since real not null, wall real not null, clock real not null)"""

_COLUMNS = "name, token, run, folder, parked, host, boot, pid, start, user, since, wall, clock"


class LockError(RunbookError):
    """The file of the locks cannot be used."""


class UnreachableError(LockError):
    """Where the locks are cannot be reached now: it may be later."""


class LockLostError(RunbookError):
    """Another run got a lock of ours, because this process did not run for longer than the lock lives."""


@frozen
class Holder:
    """Who holds a lock. `since`: Unix time. `parked`: the run waits for a person, no process runs it."""

    name: str
    token: int
    run: str
    folder: Path
    parked: bool
    who: processes.Identity
    since: float
    wall: float
    clock: float

    def left(self) -> float:
        """Seconds until it expires without a sign of life; parked ones do not expire."""
        if self.parked:
            return float("inf")
        here = processes.me()
        if self.who.host != here.host:
            return self.wall + TTL - time.time()
        return self.clock + TTL - processes.clock() if self.who.boot == here.boot else 0.0

    def dead(self) -> bool:
        """Its process is known to be gone (the lock still lives until it expires)."""
        here = processes.me()
        return self.who.host == here.host and not processes.alive(self.who.pid, self.who.start)

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%SZ", time.gmtime(self.since))
        text = f"lock {self.name} is held by run {self.run} ({self.who.user} on {self.who.host}, since {since})"
        if self.parked:
            return f"{text}; it waits for a person"
        gone = f"{text}; its process is gone, the lock is free in {max(0.0, self.left()):.0f} s"
        return gone if self.dead() else text

    def way_out(self) -> str:
        """What to do about it."""
        if self.parked:
            return f"`runbook answer {self.run}`; --preempt cancels it and plays its clean-up first"
        if self.dead():
            return f"`runbook resume {self.run}` ends what it began; --wait-lock waits"
        return f"--wait-lock waits for it, --preempt cancels run {self.run} and waits for its clean-up"


class Locks:
    """The locks of one home, as one run sees them. The file is opened when the first lock is wanted."""

    remote = False
    where = ""

    def __init__(self, path: Path, run: str, folder: Path) -> None:
        """`folder`: the run's own, where who is refused can leave it a command."""
        self._path = path
        self._run = run
        self._folder = folder
        self._db: sqlite3.Connection | None = None
        self._renewed = 0.0
        self.ender: Ender | None = None  # who ends a run that waits for a person
        self.tokens: dict[str, int] = {}  # what this run holds

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                # only a new one: closing a file drops every lock that this process has on it, SQLite's too (fcntl(2))
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                db = sqlite3.connect(self._path, timeout=20.0, isolation_level=None)
                db.execute("pragma journal_mode = wal")
                db.execute("pragma synchronous = full")  # a token that was given out is never given out again
                db.execute(_TABLE)
            except (OSError, sqlite3.Error) as error:
                raise LockError(f"the locks cannot be used ({self._path}: {error})") from error
            self._db = db
        return self._db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; LockError when the file cannot be used."""
        try:
            db = self._open()
            db.execute("begin immediate")
            try:
                yield db
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("rollback")
                raise
            db.execute("commit")
        except sqlite3.Error as error:
            raise LockError(f"the locks cannot be used ({self._path}: {error})") from error

    def take(self, names: Iterable[str]) -> Holder | None:
        """Take the names in sorted order, as far as they are free; who holds the first that is not, else None."""
        with self._transaction() as db:
            held = self._take(db, sorted(set(names)))
        trouble = self.ender.trouble(held) if held is not None and self.ender is not None else None
        if trouble is not None:
            raise trouble
        return held

    def _take(self, db: sqlite3.Connection, names: list[str]) -> Holder | None:
        for name in names:
            held, token = _read(db, name)
            if held is not None and held.run != self._run and held.left() > 0:
                return held
            if held is None or held.run != self._run:
                token += 1
            self._write(db, name, token)
        return None

    def retake(self, tokens: Mapping[str, int]) -> list[str]:
        """After a resume: take back what is on record as ours. Returns the names that others have held meanwhile."""
        lost = []
        with self._transaction() as db:
            for name, token in sorted(tokens.items()):
                if _read(db, name)[1] == token:
                    self._write(db, name, token)
                else:
                    lost.append(name)
        return lost

    def _write(self, db: sqlite3.Connection, name: str, token: int) -> None:
        here, now = processes.me(), time.time()
        db.execute(
            "insert or replace into locks values (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name,
                token,
                self._run,
                str(self._folder),
                here.host,
                here.boot,
                here.pid,
                here.start,
                here.user,
                now,
                now,
                processes.clock(),
            ),
        )
        self.tokens[name] = token
        self._renewed = processes.clock()

    def aged(self) -> bool:
        """Whether what is held should be renewed now."""
        return bool(self.tokens) and processes.clock() - self._renewed >= RENEW

    def renew(self) -> None:
        """A sign of life for all that is held. LockLostError when one is not ours any more."""
        now = processes.clock()
        with self._transaction() as db:
            lost = [
                name
                for name, token in self.tokens.items()
                if db.execute(
                    "update locks set wall = ?, clock = ? where name = ? and token = ? and run = ?",
                    (time.time(), now, name, token, self._run),
                ).rowcount
                != 1
            ]
        if lost:
            raise LockLostError(f"lock {lost[0]} was lost to another run: stopped here, nothing more was done")
        self._renewed = now

    def beat(self, *, acting: bool) -> None:
        """As LockStore.beat: a file is so near that a renewal is made at once."""
        if self.aged():
            self.renew()

    def sure(self) -> bool:
        """As LockStore.sure: every turn's beat has seen to it."""
        return True

    def assure(self) -> str | None:
        """As LockStore.assure."""
        return None

    def demand(self, held: Holding) -> None:
        """Ask the holder's process, by its run's mailbox, to cancel the run and clean up; a run that waits for a person
        has none, and is ended here."""
        assert isinstance(held, Holder)
        if held.parked:
            if self.ender is None:
                raise LockError(str(held), f"nobody runs it: `runbook cancel {held.run}` first")
            self.ender.end(held)
            return
        try:
            journal = Journal.open(held.folder / "journal.db")
            try:
                journal.send("preempt", {"why": "another run needs its locks (--preempt)"})
            finally:
                journal.close()
        except JournalError as error:
            raise LockError(f"{held}; it could not be told to give way: {error.message}") from error

    def demanded(self) -> str | None:
        """As LockStore.demanded: such words come by the mailbox."""
        return None

    def release(self, names: Iterable[str]) -> None:
        """Give names back; those that are not ours are left alone."""
        mine = [(name, self.tokens.pop(name)) for name in sorted(set(names)) if name in self.tokens]
        self._update("update locks set run = '', parked = 0 where name = ? and token = ? and run = ?", mine)

    def park(self) -> None:
        """Nobody runs us now, and still they are ours: a person is waited for."""
        self._update("update locks set parked = 1 where name = ? and token = ? and run = ?", list(self.tokens.items()))

    def _update(self, statement: str, mine: list[tuple[str, int]]) -> None:
        if mine:
            with self._transaction() as db:
                db.executemany(statement, [(name, token, self._run) for name, token in mine])

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _read(db: sqlite3.Connection, name: str) -> tuple[Holder | None, int]:
    """Who has it (dead or alive) and the last token that was given out."""
    row = db.execute(
        f"select {_COLUMNS} from locks where name = ?",  # noqa: S608  # our own constant
        (name,),
    ).fetchone()
    if row is None:
        return None, 0
    return (_holder(row) if row[2] else None), int(row[1])


def _holder(row: tuple[str, int, str, str, int, str, str, int, str, str, float, float, float]) -> Holder:
    name, token, run, folder, parked, host, boot, pid, start, user, since, wall, clock = row
    who = processes.Identity(host, boot, pid, start, user)
    return Holder(name, token, run, Path(folder), bool(parked), who, since, wall, clock)


def holders(path: Path) -> list[Holder]:
    """All locks that are held, for people to see."""
    if not path.exists():
        return []
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        rows = db.execute(
            f"select {_COLUMNS} from locks where run != '' order by name"  # noqa: S608  # our own constant
        ).fetchall()
    except sqlite3.Error as error:
        raise LockError(f"the locks cannot be read ({path}: {error})") from error
    finally:
        db.close()
    return [held for row in rows if (held := _holder(row)).left() > 0]
