"""Effects on this machine. The engine runs in turns on a loop that does nothing but run callbacks:

    feed what arrived -> run until quiet -> results and new intents in one commit -> dispatch

Replay is a lookup: an answer on record is given at once, before anything live is looked at, so a resumed run asks for
the same things under the same keys and goes on where the record ends. Nothing is dispatched before its turn is on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import queue
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from runbook.interpreter.effects import Box, Call, Fault, Question, Record, SecretRef, StopKind
from runbook.interpreter.errors import NonDeterminismError
from runbook.interpreter.frozen import frozen
from runbook.runner import people
from runbook.runner.calls import Calls
from runbook.runner.clock import Clock
from runbook.runner.host import Host
from runbook.runner.journal import Event, Journal
from runbook.runner.lock_store import LockStore
from runbook.runner.lock_waits import LockWaits
from runbook.runner.orders import AGAIN
from runbook.runner.questions import Ask, Questions
from runbook.runner.quiet import Future, QuietLoop
from runbook.runner.records import Past, emit_key
from runbook.runner.secret_waits import SecretWaits
from runbook.runner.threads import Threads

__all__ = ["Ask", "Local", "Policy", "WaitingError", "jittered"]

T = TypeVar("T")

BEAT = 5.0  # seconds of running time that a crash may give back at most
LOOK = 0.2  # seconds between two looks into the mailbox
LONG = 1.0  # a sleep from so many seconds on has its end on record when it begins


class WaitingError(Exception):
    """Nothing else can run: people are waited for, and none is here. No error: the run goes on when they answered."""

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__("waiting for people")
        self.questions = tuple(questions)


@frozen
class Policy:
    """What the command line decided."""

    wait_lock: bool = False
    preempt: bool = False
    in_doubt: Literal["ask", "repeat", "done", "fail"] = "ask"
    initiator: str = ""
    guard: Callable[[Call, str | None], Fault | None] | None = None  # the plan that is applied: why a call must not be


@dataclass(eq=False, slots=True)
class _Sleep:
    key: str
    seconds: float
    until: float
    box: Box
    future: Future[Record]


class Local:
    """The engine's effects, and the loop that drives it. One for each process of a run; used by one thread.

    `listeners` get every event right after its commit, and passing ones (`log`, `progress`, seq 0) as they come.
    """

    def __init__(
        self,
        journal: Journal,
        host: Host,
        locks: LockStore,
        run_id: str,
        *,
        past: Past | None = None,
        clock: Clock | None = None,
        policy: Policy | None = None,
        listeners: Sequence[Callable[[Event], None]] = (),
        ask: Ask | None = None,
    ) -> None:
        self.journal = journal
        self.host = host
        self.run_id = run_id
        self.past = past or Past()
        self.clock = clock or Clock(self.past.at, self.past.wall)
        self.policy = policy or Policy()
        self.root = "@run"  # the box that a first cancel stops; a round of undo has its own
        self.threads = Threads()
        self.loop = QuietLoop()
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.calls = Calls(self)
        self.lock_waits = LockWaits(self, locks)
        self.questions = Questions(self, ask)
        self.secret_waits = SecretWaits(self)
        self._listeners = list(listeners)
        self._dispatches: list[Callable[[], None]] = []
        self._after_commit: list[Callable[[], None]] = []
        self._dues: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._sleeps: dict[str, _Sleep] = {}
        self._roots: dict[str, Box] = {}
        self._cancelled_at: float | None = None
        self._mail_seen = -1
        self._beat_at = 0.0
        self._looked_at = -LOOK

    # -- what others here use of it

    def add(self, kind: str, key: str, data: Mapping[str, Any]) -> tuple[int, float, float]:
        """An event of this turn: its number, running time and Unix time."""
        at, wall = self.clock.running(), self.clock.wall()
        self._beat_at = at
        return self.journal.add(kind, key, data, at, wall), at, wall

    def later(self, act: Callable[[], None]) -> None:
        """Do this as soon as this turn is on disk."""
        self._dispatches.append(act)

    def once_durable(self, act: Callable[[], None]) -> None:
        """Do this after the commit, also when it is the last one."""
        self._after_commit.append(act)

    def alarm(self, due: float, act: Callable[[], None]) -> None:
        """Do this at running time `due`, in a turn of its own."""
        heapq.heappush(self._dues, (due, next(self._numbers), act))

    def post(self, act: Callable[[], None]) -> None:
        """From any thread: do this in the next turn."""
        self.inbox.put(act)

    def future(self) -> Future[Record]:
        return self.loop.future()

    def crash(self, error: BaseException) -> None:
        """Nothing may go on: this turn is not committed."""
        self.loop.crash = self.loop.crash or error

    def tell(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        """A passing event: shown, not recorded."""
        self._show(Event(0, kind, key, data, self.clock.running(), self.clock.wall()))

    def stopped(self, kind: str, key: str, data: Mapping[str, Any], verdict: tuple[StopKind, str]) -> Record:
        """Record that a box stopped something before it began, or while it waited."""
        status, by = verdict
        seq, at, wall = self.add(kind, key, {**data, "status": status, "by": by})
        return Record(seq, at, wall, status=status, by=by)

    # -- Effects

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return self.loop.spawn(work)

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        known = self.past.answer("start", key)
        if known is not None:
            return known
        over = box.verdict(self.clock.running())
        if over is not None:
            seq, at, wall = self.add("step.started", key, {**about, "by": over[1], "stop": over[0]})
            return Record(seq, at, wall, status=over[0], by=over[1])
        seq, at, wall = self.add("step.started", key, about)
        return Record(seq, at, wall, status="running")

    async def call(self, call: Call, box: Box) -> Record:
        return await self.calls.call(call, box)

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        known = self.past.answer("sleep", key)
        if known is not None:
            return known
        if jitter:
            seconds *= jittered(self.run_id, key)
        now = self.clock.running()
        over = box.verdict(now)
        if over is not None:
            return self.stopped("slept", key, {"seconds": 0.0}, over)
        until = self.past.sleeping.get(key)
        if until is None:
            until = now + seconds
            if seconds >= LONG:
                self.add("sleep.began", key, {"seconds": seconds, "until": until})
        sleep = self._sleeps[key] = _Sleep(key, seconds, until, box, self.future())
        self._watch_sleep(sleep)
        return await sleep.future

    async def ask(self, question: Question, box: Box) -> Record:
        return await self.questions.ask(question, box)

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        return await self.lock_waits.lock(key, names, box, first=first)

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        return self.lock_waits.unlock(key, names)

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        return await self.secret_waits.resolve(key, refs)

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        self.stop_box(box, kind, why)

    def opened(self, box: Box) -> None:
        if box.stopped is None and box.key in self.past.stops:
            box.stopped = self.past.stops[box.key]
        if box.key.startswith("@"):
            self._roots[box.key] = box
            if box.due is not None:  # it got its end late: what flies in it must hear of it
                self.alarm(box.due, self.calls.cut_stopped)

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        mark = kind, emit_key(kind, key, data)
        if mark not in self.past.emitted:
            self.past.emitted.add(mark)
            self.add(kind, key, data)

    def warn_of_secrets(self) -> None:
        """Of those that were read until now and are weakly kept: once in a run, whatever reads them again."""
        for message in self.host.secrets.warnings:
            self.emit("warning", "", {"message": message})

    # -- stopping

    def stop_box(self, box: Box, kind: StopKind, why: str) -> None:
        """On record first, then the box is stopped and what is open under it is cut."""
        if box.stopped is not None:
            return
        if box.key not in self.past.stops:
            self.add("stop", box.key, {"kind": kind, "why": why})
            self.past.stops[box.key] = kind
        box.stopped = kind
        self.calls.cut_stopped()
        self.lock_waits.cut_stopped()
        for sleep in list(self._sleeps.values()):
            if sleep.box.verdict(0.0) is not None:
                self._wake(sleep)
        self.questions.cut_stopped()

    def cancel(self, why: str) -> None:
        """Stop the run: first its work, a second time its clean-up too. From any thread, or from a signal handler."""
        self.post(lambda: self.cancel_now(why))

    def cancel_now(self, why: str) -> None:
        """As `cancel`, from inside a turn, or before the engine has begun."""
        now = self.clock.real()
        soft = self._roots.get(self.root)
        if soft is None and self.root not in self.past.stops:
            self.stop_box(Box(self.root, None), "cancelled", why)  # the engine's own box is stopped when it is opened
        elif soft is not None and soft.stopped is None:
            self._cancelled_at = now
            self.stop_box(soft, "cancelled", why)
        elif self._cancelled_at is None or now >= self._cancelled_at + AGAIN:
            hard = self._roots.get("@hard" if self.root == "@run" else f"{self.root}@hard")
            if hard is not None:
                self.stop_box(hard, "cancelled", why)

    # -- sleeping

    def _watch_sleep(self, sleep: _Sleep) -> None:
        end = sleep.box.deadline()
        self.alarm(sleep.until if end is None else min(sleep.until, end), lambda: self._wake(sleep))

    def _wake(self, sleep: _Sleep) -> None:
        if self._sleeps.get(sleep.key) is not sleep:
            return
        now = self.clock.running()
        over = sleep.box.verdict(now)
        if now < sleep.until and over is None:
            self._watch_sleep(sleep)  # its box was given more time, or the alarm came a hair early
            return
        del self._sleeps[sleep.key]
        if now >= sleep.until:
            seq, at, wall = self.add("slept", sleep.key, {"seconds": sleep.seconds})
            sleep.future.set_result(Record(seq, at, wall))
        elif over is not None:
            sleep.future.set_result(self.stopped("slept", sleep.key, {"seconds": sleep.seconds}, over))

    # -- the loop

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Drive `main` (the engine) to its end.

        Raises WaitingError when only people could go on; LeaseLostError, JournalError, NonDeterminismError and whatever
        is a bug: then what is in flight was cut, and nothing more was started.
        """
        self._mail()  # a cancel that waited for us comes before anything is started
        task = self.loop.spawn(main)
        try:
            while True:
                self._turn()
                if task.done():
                    return task.result()
                self._collect()
        except BaseException:
            self.calls.cut_everything()
            raise

    def _turn(self) -> None:
        """Run the engine until it is quiet, make it durable, then act."""
        self.loop.run_until_quiet()
        if self.loop.crash is not None:
            raise self.loop.crash
        self.lock_waits.housekeeping()  # no effect under a lock that is somebody else's by now
        self.commit()
        dispatches, self._dispatches = self._dispatches, []
        for act in dispatches:
            act()

    def commit(self) -> None:
        """Everything so far is on disk when this returns; then it is shown."""
        fresh = self.journal.commit()
        done, self._after_commit = self._after_commit, []
        for act in done:
            act()
        for event in fresh:
            self._show(event)

    def _show(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001  # a broken screen must not stop a recovery
                self._listeners.remove(listener)
                with contextlib.suppress(OSError):  # nobody reads that either
                    print(f"runbook: a listener failed and is left out: {error!r}", file=sys.stderr)  # noqa: T201

    def _collect(self) -> None:
        """Wait until something happened, then take all that has happened by then: the group commit."""
        while True:
            if self._housekeeping() | self._due():
                self._drain(0.0)
                return
            idle = self._idle()
            if idle and self.questions.here is None:
                if self._mail():
                    return
                raise WaitingError(list(self.questions))
            if idle:
                self.clock.hold()
            try:
                if self._drain(self._nap()):
                    return
            finally:
                self.clock.go()

    def _idle(self) -> bool:
        """Every open leaf waits for a person."""
        if self.calls.open or self._sleeps or self.lock_waits.open or self.secret_waits.open:
            return False
        return bool(self.questions)

    def _nap(self) -> float:
        """Seconds until something is due at the latest."""
        soonest = LOOK
        if self._dues and not self.clock.held:
            soonest = min(soonest, self._dues[0][0] - self.clock.running())
        return max(0.0, min(soonest, self.questions.patience()))

    def _drain(self, wait: float) -> bool:
        """Take what arrived; True when there was something."""
        some = False
        while True:
            try:
                act = self.inbox.get(timeout=wait) if wait > 0 else self.inbox.get_nowait()
            except queue.Empty:
                return some
            wait, some = 0.0, True
            self.clock.go()
            act()

    def _due(self) -> bool:
        now, some = self.clock.running(), False
        while self._dues and self._dues[0][0] <= now:
            heapq.heappop(self._dues)[2]()
            some = True
        return self.questions.give_up_overdue() or some

    def _housekeeping(self) -> bool:
        """The heartbeat, the lease, the locks, the mailbox. True when it changed something."""
        real = self.clock.real()
        if real - self._looked_at < LOOK:
            return False
        self._looked_at = real
        self.lock_waits.housekeeping()
        some = self._mail()
        if not some and not self._idle() and self.clock.running() - self._beat_at >= BEAT:
            self.add("beat", "", {})
            some = True
        if not some:
            self.journal.beat()
        return some

    def _mail(self) -> bool:
        version = self.journal.changed()
        if version == self._mail_seen:
            return False
        self._mail_seen = version
        some = False
        for mail in self.journal.mail():
            if mail.kind == "answer":
                question = str(mail.data.get("question"))
                if question not in self.questions and ("ask", question) not in self.past.answers:
                    continue  # it was not asked yet (a resumed run is still on its way there): it stays
                self.questions.answer(question, people.Answer.from_wire(mail.data))
            elif mail.kind in ("cancel", "preempt"):
                self.cancel_now(str(mail.data.get("why") or mail.kind))
            some = True
            self.journal.taken(mail)
        return some

    def look_again(self) -> None:
        """Read the mailbox anew: what was not for us before may be now."""
        self._mail_seen = -1

    def different(self, key: str, was: str, asked: str) -> NonDeterminismError:
        """What is asked for under a recorded key is not what the record answers."""
        return NonDeterminismError(
            f"{key}: the journal records {was}, and now {asked} was asked for: nothing was touched",
            "this journal was not written by this playbook and this version of runbook",
        )


def jittered(run_id: str, key: str) -> float:
    """0.8 to 1.2, the same for the same key of the same run, on any machine."""
    number = int.from_bytes(hashlib.sha256(f"{run_id}\n{key}".encode()).digest()[:8], "big")
    return 0.8 + 0.4 * number / 2**64
