"""Who runs a run: one row in its journal, taken in a transaction, confirmed in the transaction of every commit.

Because the row lives in the journal itself, a process that lost the lease cannot write another event: its next commit
finds somebody else's token, and so its next effect never starts.
"""

from __future__ import annotations

import sqlite3
import time

from runbook.interpreter.errors import RefusedError, RunbookError
from runbook.interpreter.frozen import frozen
from runbook.runner import processes

TTL = 30.0  # seconds that a lease lives without a heartbeat
RENEW = 5.0  # seconds after which a commit, or an idle run, renews it
MARGIN = 10.0  # an effect must not start on a lease with less than this left: it is renewed first

TABLE = """create table if not exists lease(
  id integer primary key check (id = 1), token integer not null, host text not null, boot text not null,
  pid integer not null, start text not null, user text not null, since real not null, wall real not null,
  clock real not null)"""


class LeaseLostError(RunbookError):
    """Another process took this run over (this one was stopped for too long): leave without touching anything."""


class LeaseHeldError(RefusedError):
    """Another process runs this run."""


@frozen
class Holder:
    """Who holds a lease, and since when (Unix time)."""

    token: int
    who: processes.Identity
    since: float
    wall: float
    clock: float

    def alive(self) -> bool:
        """Whether it is to be respected: the process lives and beats, or (another machine) its time is not over."""
        here = processes.me()
        if self.who.host != here.host:
            return time.time() < self.wall + TTL
        if self.who.boot != here.boot or not processes.alive(self.who.pid, self.who.start):
            return False
        return processes.clock() < self.clock + TTL

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%SZ", time.gmtime(self.since))
        return f"{self.who.user} on {self.who.host} (process {self.who.pid}, since {since})"


def holder(db: sqlite3.Connection) -> Holder | None:
    """The recorded holder, dead or alive; None when nobody holds it."""
    row = db.execute(
        "select token, host, boot, pid, start, user, since, wall, clock from lease where pid > 0"
    ).fetchone()
    if row is None:
        return None
    token, host, boot, pid, start, user, since, wall, clock = row
    return Holder(token, processes.Identity(host, boot, pid, start, user), since, wall, clock)


class Lease:
    """Our right to write this journal. Made by `take`."""

    def __init__(self, token: int) -> None:
        self.token = token
        self._renewed = processes.clock()

    @classmethod
    def take(cls, db: sqlite3.Connection) -> Lease:
        """Become the one who runs it; the caller holds a write transaction. LeaseHeldError says who does already."""
        held = holder(db)
        if held is not None and held.alive():
            hint = "follow it with `runbook logs -f`, or stop it with `runbook cancel`"
            raise LeaseHeldError(f"this run is being run by {held}", hint)
        last = db.execute("select token from lease").fetchone()
        here, now = processes.me(), time.time()
        lease = cls((last[0] if last else 0) + 1)
        db.execute(
            "insert or replace into lease values (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (lease.token, here.host, here.boot, here.pid, here.start, here.user, now, now, processes.clock()),
        )
        return lease

    def aged(self) -> bool:
        """Whether an idle run should commit, so that the lease lives on."""
        return processes.clock() - self._renewed >= RENEW

    def confirm(self, db: sqlite3.Connection) -> None:
        """Inside a write transaction: it is still ours, and for long enough. LeaseLostError when it is not."""
        now = processes.clock()
        if now - self._renewed < min(RENEW, TTL - MARGIN):
            row = db.execute("select token from lease").fetchone()
            if row is not None and row[0] == self.token:
                return
        elif (
            db.execute("update lease set wall = ?, clock = ? where token = ?", (time.time(), now, self.token)).rowcount
            == 1
        ):
            self._renewed = now
            return
        raise LeaseLostError(
            f"this run was taken over by {holder(db) or 'another process'}: stopped here, nothing more was done",
            "this process did not run for longer than its lease; the other one goes on",
        )

    def release(self, db: sqlite3.Connection) -> None:
        """Give it back: the token stays, so that it only ever grows."""
        db.execute("update lease set pid = 0 where token = ?", (self.token,))
