"""Calls in flight: from the engine's request to the record of its result, bounded by its boxes."""

from __future__ import annotations

import collections
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from runbook.contract import TemporaryError
from runbook.interpreter.effects import Box, Call, Fault, Record, StopKind
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner import processes
from runbook.runner.context import NOTE_PATIENCE, HostContext, Outbox, cut_off
from runbook.runner.locks import LockLostError
from runbook.runner.outcomes import Again, Intent, Result, Undoes
from runbook.runner.quiet import Future
from runbook.runner.records import fault_to_wire, imprint, intent_from_wire, intent_to_wire

if TYPE_CHECKING:
    from runbook.runner.local import Local

GRACE = 0.5  # seconds that a call has to come back after its deadline or a cancel, before it is left behind
SETTLE = 10.0  # seconds that looking after a crash may take, however little its box has left
FOREVER = 1e9

Phase = Literal["queued", "read", "run", "prepare", "apply", "settle"]


@dataclass(eq=False, slots=True)
class Flight:
    """One call on its way."""

    call: Call
    box: Box
    future: Future[Record]
    wire: Any  # its arguments, on the wire
    mark: str
    phase: Phase = "queued"
    due: float | None = None
    context: HostContext | None = None
    intent: Intent | None = None
    written: bool = False  # its intent is in the journal
    cut: bool = False
    away: bool = False  # a thread works for it

    @property
    def effective(self) -> bool:
        return self.call.effect in ("change", "opaque")

    @property
    def acts(self) -> bool:
        """In the phase that changes the world."""
        return self.effective and self.phase in ("run", "apply")


class Calls:
    """All calls in flight of one run."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._flights: dict[str, Flight] = {}
        self._lanes: dict[str, collections.deque[Flight]] = {}
        self._outbox = _Inbox(local)

    @property
    def open(self) -> bool:
        return bool(self._flights)

    @property
    def acting(self) -> bool:
        """Whether something that changes the world is on its way."""
        return any(flight.away and flight.acts for flight in self._flights.values())

    async def call(self, call: Call, box: Box) -> Record:
        """The record of a call: from the journal, else of what happens now."""
        local = self._local
        wire = to_wire(call.args)
        mark = imprint(call, wire)
        known, began = local.past.answers.get(("call", call.key)), local.past.intents.get(call.key)
        for recorded in (known.data if known is not None else None, began):
            if recorded is not None and recorded.get("print") != mark:
                asked = f"{call.action} with other parameters"
                local.crash(local.different(call.key, str(recorded.get("action")), asked))
                return await local.future()
        if known is not None:
            record = local.past.answer("call", call.key)
            assert record is not None
            return record
        over = box.verdict(local.clock.running())
        if over is not None and began is None:
            return local.stopped("call.result", call.key, self._about(call, mark), over)
        flight = self._flights[call.key] = Flight(call, box, local.future(), wire, mark)
        if call.effect == "notify" and call.lane:
            lane = self._lanes.setdefault(call.lane, collections.deque())
            lane.append(flight)
            if lane[0] is not flight:
                self._watch(flight, box.deadline())
                return await flight.future
        self._begin(flight)
        return await flight.future

    # -- one flight

    def _begin(self, flight: Flight) -> None:
        call, local = flight.call, self._local
        began = local.past.intents.get(call.key)
        if began is not None:
            flight.written, flight.intent = True, intent_from_wire(began)
            self._launch(flight, "settle", lambda: self._settle(flight))
        elif call.effect == "change":
            first = self._first(call)
            undoes = self._undoes(call)
            self._launch(flight, "prepare", lambda: local.host.prepare(call, self._context(flight), first, undoes))
        else:
            if call.effect in ("opaque", "notify") and self._refused(flight, None):
                return
            self._when_sure(flight, lambda: self._opaque(flight))

    def _opaque(self, flight: Flight) -> None:
        if flight.call.effect in ("opaque", "notify"):
            self._write(flight, {})
        self._perform(flight)

    def _when_sure(self, flight: Flight, act: Callable[[], None]) -> None:
        """Go on to an effect only under locks that are surely ours; else renew them first, or stop the run."""
        local, store = self._local, self._local.lock_waits.store
        if not flight.effective or store.sure():
            act()
            return

        def ask() -> None:
            why = store.assure()
            local.post(lambda: self._assured(flight, act, why))

        local.threads.submit(ask)

    def _assured(self, flight: Flight, act: Callable[[], None], why: str | None) -> None:
        if why is not None:
            self._local.crash(LockLostError(why))
        elif self._flights.get(flight.call.key) is not flight:
            return
        elif flight.cut:
            self._finish(flight, Result("failed"))
        else:
            act()

    def _may_act(self) -> bool:
        """In an action's thread: the locks are surely ours. Else the run stops: a process that was asleep must not wake
        up acting."""
        why = self._local.lock_waits.store.assure()
        if why is not None:
            self._local.post(functools.partial(self._local.crash, LockLostError(why)))
        return why is None

    def _fence(self) -> None:
        """At each checkpoint of an action that acts."""
        if not self._may_act():
            raise TemporaryError("stopped")

    def _perform(self, flight: Flight) -> None:
        phase: Phase = "run" if flight.written else "read"
        self._launch(flight, phase, lambda: self._local.host.perform(flight.call, self._context(flight)))

    def _settle(self, flight: Flight) -> Result | Again:
        """In a thread: end who may still be acting for it, then look."""
        call, context = flight.call, self._context(flight)
        for note in context.notes.values():
            processes.end_noted(note, context.op)
        if flight.intent is not None:
            return self._local.host.settle(call, context, flight.intent)
        if call.idempotent or call.effect == "notify":
            return Again()
        return Result(
            "in_doubt", error=Fault(f"{call.action} was begun and nobody knows whether it was done", "in_doubt")
        )

    def _launch(self, flight: Flight, phase: Phase, job: Callable[[], Intent | Result | Again]) -> None:
        """In a thread, as soon as this turn is on disk."""
        local, now = self._local, self._local.clock.running()
        flight.phase, flight.due = phase, flight.box.deadline()
        if phase == "settle":
            flight.due = max(now + SETTLE, flight.due or 0.0)

        def work() -> None:
            try:
                if flight.acts and not self._may_act():
                    return
                outcome = job()
            except BaseException as bug:  # noqa: BLE001  # a host never raises; should it, the run must not wait for it
                local.post(functools.partial(local.crash, bug))
                return
            finally:
                flight.away = False
            local.post(lambda: self._came(flight, outcome))

        def go() -> None:
            if flight.context is None or phase == "apply":
                left = FOREVER if flight.due is None else flight.due - local.clock.running()
                if flight.context is None:
                    notes = {name: from_wire(value) for name, value in local.past.notes.get(flight.call.op, {}).items()}
                    flight.context = local.host.context(flight.call, left, notes, self._outbox)
                flight.context.until(left)
            flight.context.fence = self._fence if flight.acts else None
            flight.away = True
            local.threads.submit(work)

        self._watch(flight, flight.due)
        local.later(go)

    @staticmethod
    def _context(flight: Flight) -> HostContext:
        assert flight.context is not None
        return flight.context

    def _came(self, flight: Flight, outcome: Intent | Result | Again) -> None:
        """A phase came back (in a turn of the loop)."""
        if self._flights.get(flight.call.key) is not flight:
            return  # it was left behind
        if isinstance(outcome, Result):
            self._finish(flight, outcome)
            return
        over = flight.box.verdict(self._local.clock.running())
        intent = outcome.intent if isinstance(outcome, Again) else outcome
        if over is not None:
            inverse = intent.inverse if intent is not None and flight.written else None
            self._finish(flight, Result("failed", inverse=inverse))
            return
        if intent is None:
            self._perform(flight)
            return
        flight.intent = intent
        if not flight.written and self._refused(flight, intent.version):
            return
        self._when_sure(flight, lambda: self._change(flight, intent))

    def _change(self, flight: Flight, intent: Intent) -> None:
        if not flight.written:
            self._write(flight, intent_to_wire(intent))
        host = self._local.host
        self._launch(flight, "apply", lambda: host.apply(flight.call, self._context(flight), intent))

    def _refused(self, flight: Flight, version: str | None) -> bool:
        """Whether the plan that this run applies forbids the call; then that is its result."""
        guard = self._local.policy.guard
        fault = guard(flight.call, version) if guard is not None else None
        if fault is not None:
            self._finish(flight, Result("failed", error=fault))
        return fault is not None

    def _write(self, flight: Flight, more: Mapping[str, Any]) -> None:
        """The intent: on disk before anything is done."""
        call = flight.call
        data = {**self._about(call, flight.mark), "args": flight.wire, **more}
        self._local.add("call.intent", call.key, data)
        past = self._local.past
        past.intents[call.key] = data
        past.intended(call.key, data)
        flight.written = True

    def _finish(self, flight: Flight, result: Result, *, abandoned: bool = False) -> None:
        call, local = flight.call, self._local
        del self._flights[call.key]
        if flight.context is not None and not abandoned:
            flight.context.leave()
        status, by, error = self._verdict(flight, result)
        began = flight.phase in ("run", "apply") and flight.context is not None and flight.context.opened is not None
        changed = result.changed or (not result.ok and flight.effective and (began or flight.phase == "settle"))
        outputs = to_wire(result.outputs) if result.outputs is not None else {}
        data: dict[str, Any] = {**self._about(call, flight.mark), "status": status, "outputs": outputs}
        if not flight.written:
            data["args"] = flight.wire
        extra = {
            "error": fault_to_wire(error),
            "by": by,
            "changed": changed,
            "inverse": result.inverse is not None and (flight.written or self._first(call) is not None),
            "irreversible": result.irreversible,
            "abandoned": abandoned,
        }
        data |= {name: value for name, value in extra.items() if value}
        seq, at, wall = local.add("call.result", call.key, data)
        local.warn_of_secrets()  # those that an input names are read by the first action that needs them
        local.past.ended(seq, call.key, data)
        inverse = result.inverse
        if inverse is not None:
            inverse = replace(inverse, args=from_wire(to_wire(inverse.args)))
        flight.future.set_result(
            Record(seq, at, wall, status, from_wire(outputs), error, by, changed, inverse, result.irreversible)
        )
        self._next_in_lane(flight)

    def _verdict(self, flight: Flight, result: Result) -> tuple[Any, str | None, Fault | None]:
        """A result that came wins; a failure under a box that is over is that box's end."""
        if result.status != "failed":
            return result.status, None, result.error
        over: tuple[StopKind, str] | None = flight.box.verdict(self._local.clock.running())
        if over is None:
            return "failed", None, result.error
        status, by = over
        words = "the time is over" if status == "timed_out" else "cancelled"
        error = result.error or Fault(words, attempt=flight.call.attempt)
        if error.kind != "abandoned":
            kind = "timeout" if status == "timed_out" else error.kind
            message = words if error.message in ("stopped", words) else f"{words}: {error.message}"
            error = replace(error, kind=kind, message=message, temporary=False)
        return status, by, error

    @staticmethod
    def _about(call: Call, mark: str) -> dict[str, Any]:
        data: dict[str, Any] = {"action": call.action, "effect": call.effect, "op": call.op, "print": mark}
        if call.undoes is not None:
            data["undoes"] = call.undoes
        return data

    def _next_in_lane(self, flight: Flight) -> None:
        lane = self._lanes.get(flight.call.lane)
        if lane is None or flight not in lane:
            return
        first = lane[0] is flight
        lane.remove(flight)
        if first and lane:
            self._begin(lane[0])

    # -- what an operation did before

    def _first(self, call: Call) -> Intent | None:
        """The intent of the operation's first attempt: its observation and inverse stay."""
        past = self._local.past
        key = past.first.get(call.op)
        return intent_from_wire(past.intents[key]) if key is not None else None

    def _undoes(self, call: Call) -> Undoes | None:
        if call.undoes is None:
            return None
        past = self._local.past
        key = past.keys.get(call.undoes)
        op = str(past.intents[key]["op"]) if key in past.intents else call.step  # a person's answer has no intent
        intents = [past.intents[attempt] for attempt in past.attempts.get(op, ())]
        if not intents:
            return None
        states = [
            from_wire(intent[name]) for intent in intents for name in ("origin", "before", "after") if name in intent
        ]
        return Undoes((*states, {name: from_wire(state) for name, state in past.left.items()}))

    # -- the end of time

    def _watch(self, flight: Flight, due: float | None) -> None:
        if due is not None:
            self._local.alarm(due, lambda: self._overdue(flight))

    def _overdue(self, flight: Flight) -> None:
        if self._flights.get(flight.call.key) is not flight or flight.cut:
            return
        now = self._local.clock.running()
        if flight.phase == "settle":
            over = flight.due is not None and now >= flight.due
        else:
            over = flight.box.verdict(now) is not None
        if over:
            self._cut(flight)

    def cut_stopped(self) -> None:
        """A box was stopped: what flies under it is cut."""
        for flight in list(self._flights.values()):
            self._overdue(flight)

    def _cut(self, flight: Flight) -> None:
        """Wake it, kill its processes, close its sockets; it has GRACE to come back."""
        flight.cut = True
        local = self._local
        if flight.phase == "queued" or flight.context is None:
            self._finish(flight, Result("failed"))
            return
        for cut in flight.context.stop():
            local.threads.submit(functools.partial(cut_off, cut))  # one that hangs must not keep the others waiting
        local.alarm(local.clock.running() + GRACE, lambda: self._abandon(flight))

    def _abandon(self, flight: Flight) -> None:
        if self._flights.get(flight.call.key) is not flight:
            return
        call = flight.call
        fault = Fault(f"{call.action} did not come back and was left behind", "abandoned", attempt=call.attempt)
        inverse = flight.intent.inverse if flight.intent is not None and flight.written else None
        if flight.phase == "settle":
            fault = replace(fault, kind="in_doubt", message=f"{call.action}: nobody could tell whether it was done")
            self._finish(flight, Result("in_doubt", error=fault, inverse=inverse), abandoned=True)
            return
        self._finish(flight, Result("failed", error=fault, inverse=inverse), abandoned=True)

    def cut_everything(self) -> None:
        """The run ends without its results: nothing of it may go on acting. Waits for them no longer than GRACE."""
        flying = [flight for flight in self._flights.values() if flight.context is not None]
        for flight in flying:
            for cut in self._context(flight).stop():
                self._local.threads.submit(functools.partial(cut_off, cut))
        until = time.monotonic() + GRACE
        while any(flight.away for flight in flying) and time.monotonic() < until:
            time.sleep(0.01)


class _Inbox(Outbox):
    """Notes and log lines of action threads, brought into the loop's turns."""

    def __init__(self, local: Local) -> None:
        self._local = local

    def note(self, op: str, key: str, value: Any) -> bool:
        durable = threading.Event()
        wire = to_wire(value)

        def write() -> None:
            self._local.add("call.note", op, {"key": key, "value": wire})
            self._local.past.notes.setdefault(op, {})[key] = wire
            self._local.once_durable(durable.set)

        self._local.post(write)
        return durable.wait(NOTE_PATIENCE)

    def log(self, key: str, text: str) -> None:
        self._local.post(lambda: self._local.tell("log", key, {"text": text}))

    def progress(self, key: str, done: float, total: float) -> None:
        self._local.post(lambda: self._local.tell("progress", key, {"done": done, "total": total}))
