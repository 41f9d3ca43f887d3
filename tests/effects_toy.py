"""Effects over a dictionary, in virtual time, with a journal in memory, that dies at any write. For tests.

The world is a dict. The actions: `toy.set` (change), `toy.restart` (change, undone by itself), `toy.get` (read),
`toy.check` (check), `toy.run` (opaque), `toy.tell` (notify), `manual.*` (answered by a script).
A `Toy` is one process: made with the journal of the one before, it goes on where that one was killed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from runbook.interpreter import unknown, values
from runbook.interpreter.effects import Box, Call, Fault, Question, Record, SecretRef, StopKind
from runbook.runner.quiet import Future, QuietLoop

T = TypeVar("T")
USER = -1, 0.0  # before everything else that happens at the same moment


@dataclass
class Intent:
    """On disk before an effect starts: when it began, and what takes it back (kept from the first attempt)."""

    began: float
    number: int
    inverse: Call | None = None


@dataclass
class Disk:
    """What survives a process."""

    records: dict[str, Record] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    firsts: dict[str, Call | None] = field(default_factory=dict)  # op -> the first attempt's inverse
    stops: dict[str, StopKind] = field(default_factory=dict)
    emitted: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    asked: dict[str, tuple[str, str]] = field(default_factory=dict)  # call key -> action and parameters
    started: dict[str, float] = field(default_factory=dict)  # step key -> when
    lost: dict[str, str] = field(default_factory=dict)  # op -> the attempt whose answer was lost
    time: float = 0.0
    cancelled: int = 0  # by the user
    number: int = 0  # of writes: who came first, also after a resume

    def copy(self) -> Disk:
        return Disk(
            dict(self.records),
            dict(self.intents),
            dict(self.firsts),
            dict(self.stops),
            dict(self.emitted),
            dict(self.asked),
            dict(self.started),
            dict(self.lost),
            self.time,
            self.cancelled,
            self.number,
        )


@dataclass
class Flight:
    """Something that takes time. `land` makes the record when it ends by itself, `cut` when a box ends it."""

    rank: tuple[int, float]  # who is first, when two things happen at once
    box: Box
    end: float | None  # None: waits for something else than time
    future: Future[Record]
    land: Callable[[], Record | None]
    cut: Callable[[StopKind, str], Record]


class Toy:
    """Effects. `crash_at=n`: the process dies instead of writing the n-th thing."""

    def __init__(
        self,
        world: dict[str, Any],
        disk: Disk | None = None,
        *,
        crash_at: int | None = None,
        cancels: tuple[float, ...] = (),
        answers: Mapping[str, Any] | None = None,
        preview: bool = False,
    ) -> None:
        self.world = world
        self.disk = disk or Disk()
        self.crash_at = crash_at
        self.writes = 0
        self.dead = False
        self.now = self.disk.time
        self.loop = QuietLoop()
        self.working: list[Coroutine[Any, Any, Any]] = []
        self.flights: dict[str, Flight] = {}
        self.cancels = cancels[self.disk.cancelled :]
        self.answers = answers or {}
        self.preview = preview
        self.calls: list[Call] = []
        self.done: list[str] = []  # what happened to the world, for people
        self.engine: Any = None

    # --- a process

    def play(self, engine: Any, main: Any = None) -> Any:
        """Run to the end; None when the process died."""
        self.engine = engine
        task: Any = self.spawn(main if main is not None else engine.run())
        while True:
            self.loop.run_until_quiet()
            if self.loop.crash is not None:
                raise self.loop.crash
            if self.dead:
                self.disk.time = self.now
                for work in self.working:
                    work.close()  # the dead clean nothing up
                return None
            if task.done():
                self.disk.time = self.now
                return task.result()
            self._advance()

    def _advance(self) -> None:
        """Go to the next moment at which something happens, and let exactly one thing happen."""
        moments: list[tuple[float, tuple[int, float], str]] = []
        for key, flight in self.flights.items():
            if flight.box.verdict(self.now) is not None:
                moments.append((self.now, flight.rank, key))
                continue
            ends = [end for end in (flight.end, flight.box.deadline()) if end is not None]
            if ends:
                moments.append((max(self.now, min(ends)), flight.rank, key))
        if self.cancels:
            moments.append((max(self.now, self.cancels[0]), USER, ""))
        if not moments:
            raise RuntimeError(f"everybody waits for somebody: {list(self.flights)}")
        self.now, rank, key = min(moments)
        if rank == USER:
            self.cancels = self.cancels[1:]
            box = self.engine.hard if self.engine.work.stopped is not None else self.engine.work
            self.loop.spawn(self._cancel(box))
            return
        flight = self.flights[key]
        verdict = flight.box.verdict(self.now)
        if verdict is not None:
            del self.flights[key]
            self._resolve(flight, key, flight.cut(*verdict))
        elif flight.end is not None and flight.end <= self.now:
            record = flight.land()
            if record is None:
                flight.end = None  # still not its turn
                return
            del self.flights[key]
            self._resolve(flight, key, record)

    async def _cancel(self, box: Box) -> None:
        await self.stop(box, "cancelled", "the user")
        self.disk.cancelled += 1

    def _resolve(self, flight: Flight, key: str, record: Record) -> None:
        if not self._write():
            return
        self.disk.records[key] = record
        flight.future.set_result(record)

    # --- the disk

    def _write(self) -> bool:
        """Every write to the journal: the only places where a crash makes a difference."""
        if self.dead:
            return False
        self.writes += 1
        if self.crash_at is not None and self.writes > self.crash_at:
            self.dead = True
            return False
        self.disk.number += 1
        return True

    def _record(self, **what: Any) -> Record:
        outputs = what.pop("outputs", None)
        return Record(
            len(self.disk.records) + 1, self.now, 1000.0 + self.now, outputs=values.canonical(outputs), **what
        )

    async def _keep(self, key: str, **what: Any) -> Record:
        record = self._record(**what)
        if not self._write():
            await self.loop.future()
        self.disk.records[key] = record
        return record

    async def _intent(self, key: str, inverse: Call | None = None) -> Intent:
        if key not in self.disk.intents:
            if not self._write():
                await self.loop.future()
            self.disk.intents[key] = Intent(self.now, self.disk.number, inverse)
        return self.disk.intents[key]

    async def _fly(self, key: str, box: Box, end: float | None, land: Any, cut: Any) -> Record:
        future = self.loop.future()
        if key in self.disk.intents:  # what is repeated after a doubt keeps its place
            rank = 1, float(self.disk.intents[original(key)].number)
        else:  # a lock: who came first, and at one moment (a cancel, a sibling's end) the key, which no kill changes
            rank = 0, self.disk.started[key.removesuffix(" lock").rstrip("/")]
        self.flights[key] = Flight(rank, box, end, future, land, cut)
        result: Record = await future
        return result

    # --- Effects

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        self.working.append(work)
        return self.loop.spawn(work)

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        if key in self.disk.records:
            return self.disk.records[key]
        verdict = box.verdict(self.now)
        if verdict is not None:
            return await self._keep(key, status=verdict[0], by=verdict[1])
        record = await self._keep(key, status="running")
        self.disk.started[key] = self.now
        return record

    async def call(self, call: Call, box: Box) -> Record:
        values.to_wire(dict(call.args))  # whatever crosses is data
        self.calls.append(call)
        key = f"{call.key} call"
        asked = call.action, repr(call.args)
        if key in self.disk.records or key in self.disk.intents:
            assert self.disk.asked[key] == asked, f"another call under {key}: {self.disk.asked[key]}, now {asked}"
        if key in self.disk.records:
            return self.disk.records[key]
        if not self.dead:
            self.disk.asked[key] = asked
        verdict = box.verdict(self.now)
        if verdict is not None and key not in self.disk.intents:
            return await self._keep(
                key, status=verdict[0], by=verdict[1], error=Fault("not started", kind="not_started")
            )
        if self.preview and any(isinstance(value, unknown.Unknown) for value in call.args.values()):
            return await self._keep(key, outputs=unknown.Unknown(call.step), sure=False)
        doubt = key in self.disk.intents
        if not doubt and call.effect == "change":
            self.disk.firsts.setdefault(call.op, self._inverse(call))
        inverse = self.disk.firsts.get(call.op)
        intent = await self._intent(key, inverse)
        if (
            "~" in call.key.rpartition("#")[2]
        ):  # repeated after a doubt: the world takes no longer for it than it would have
            intent = replace(intent, began=self.disk.intents[original(key)].began)
        args = call.args

        def land() -> Record:
            if doubt and call.effect == "opaque":
                happened = original(call.key) in self.world.get("ran", ())
                return self._record(
                    status="in_doubt", outputs={"happened": happened}, error=Fault("killed", kind="in_doubt")
                )
            if doubt and self.disk.lost.get(call.op) == call.key:
                return self._record(**self._lost(call), inverse=intent.inverse)  # and it is still lost
            if already:
                return self._record(outputs={}, inverse=intent.inverse, changed=doubt, sure=not self.preview)
            return self._land(call, intent)

        def cut(kind: StopKind, by: str) -> Record:
            return self._record(status=kind, by=by, inverse=intent.inverse, changed=call.effect in ("change", "opaque"))

        already = call.effect == "change" and self._already(call)
        if args.get("hangs"):
            return await self._fly(key, box, None, land, cut)
        known = self.preview or already or (doubt and call.effect == "opaque")
        return await self._fly(key, box, self.now if known else intent.began + args.get("takes", 0.0), land, cut)

    def _inverse(self, call: Call) -> Call | None:
        if call.action == "toy.restart":
            return Call("", "", "", "toy.restart", dict(call.args), "change")
        before = self.world.get(call.args["key"])
        back = {"key": call.args["key"], "value": before, "takes": call.args.get("back", 0.0)}
        if call.args.get("back_fails"):
            back["fail"] = call.args["back_fails"]
        return Call("", "", "", "toy.set", back, "change")

    def _already(self, call: Call) -> bool:
        if call.action == "toy.set":
            return bool(self.world.get(call.args["key"]) == call.args["value"]) and not call.args.get("fail")
        return call.op in self.world.get(call.args["name"], ())  # the object carries the id of what restarted it

    def _land(self, call: Call, intent: Intent) -> Record:
        args, sure = call.args, not self.preview
        more: dict[str, Any] = {"inverse": intent.inverse} if call.effect == "change" else {}
        if args.get("fail") and not self.preview:
            temporary = args.get("temporary", False)
            kind = "temporary" if temporary else "permanent"
            return self._record(status="failed", error=Fault(args["fail"], kind=kind, temporary=temporary), **more)
        match call.action:
            case "toy.set":
                if not self.preview:
                    self.world[args["key"]] = args["value"]
                    self.done.append(f"{self.now:g}s {args['key']}={args['value']}")
                    if args.get("late"):  # applied, and then the answer was lost
                        self.disk.lost[call.op] = call.key
                        return self._record(**self._lost(call), **more)
                return self._record(outputs={"value": args["value"]}, changed=True, sure=sure, **more)
            case "toy.restart":
                if not self.preview:
                    self.world[args["name"]] = (*self.world.get(args["name"], ()), call.op)
                    self.done.append(f"{self.now:g}s restart {args['name']}")
                return self._record(outputs={}, changed=True, sure=sure, **more)
            case "toy.run":
                if self.preview:
                    return self._record(outputs=unknown.Unknown(call.step), sure=False)
                self.world["ran"] = (*self.world.get("ran", ()), original(call.key))
                self.done.append(f"{self.now:g}s run {call.key}")
                return self._record(outputs={"rc": 0}, changed=True)
            case "toy.tell":
                self.done.append(f"{self.now:g}s tell {args.get('text')}")
                return self._record(outputs={"ts": call.op})
            case "toy.get":
                return self._record(outputs={"value": self.world.get(args["key"])})
            case "toy.check":
                ok = self.world.get(args["key"]) == args["value"] if "key" in args else args["ok"]
                return self._record(outputs={"ok": ok, "message": args.get("message", "")}, sure=sure or ok)
            case "toy.count":  # a read that comes true at its n-th call
                return self._record(outputs={"n": call.attempt})
            case "flow.set":
                return self._record(outputs=dict(args["values"]))
            case "flow.assert":
                return self._record(outputs={"ok": args["that"], "message": args["message"]})
        raise AssertionError(call.action)

    @staticmethod
    def _lost(call: Call) -> dict[str, Any]:
        return {
            "status": "failed",
            "error": Fault(call.args["late"], kind="temporary", temporary=True),
            "changed": True,
        }

    async def ask(self, question: Question, box: Box) -> Record:
        key = f"{question.key} ask"
        if key in self.disk.records:
            return self.disk.records[key]
        waiting = key in self.disk.intents and question.kind != "in_doubt"  # its turn to be cut comes as for others
        intent = await self._intent(key)
        verdict = box.verdict(self.now)
        if verdict is not None and not waiting:
            return await self._keep(key, status=verdict[0], by=verdict[1])
        if question.kind == "in_doubt":
            called = self.disk.records[f"{question.options['call']} call"]
            choice = "done" if called.outputs["happened"] else "repeat"
            return await self._keep(key, outputs={"choice": choice, "by": "ann"})
        if self.preview:
            return await self._keep(key, outputs=unknown.Unknown(question.step), sure=False)
        script = self.answers.get(question.key) or self.answers.get(question.step.rpartition("/")[2], {})

        def land() -> Record:
            if script.get("declines"):
                return self._record(status="declined", outputs={"by": "ann"})
            return self._record(outputs={"choice": script.get("choice", ""), "by": "ann", "at": None})

        def cut(kind: StopKind, by: str) -> Record:
            return self._record(status=kind, by=by)

        end = intent.began + script["after"] if "after" in script else None
        return await self._fly(key, box, end, land, cut)

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        key = f"{key} sleep"
        if key in self.disk.records:
            return self.disk.records[key]
        if self.preview:
            return await self._keep(key, sure=not jitter)
        intent = await self._intent(key)
        return await self._fly(
            key, box, intent.began + seconds, self._record, lambda kind, by: self._record(status=kind, by=by)
        )

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        key = f"{key} lock"
        if key in self.disk.records:
            return self.disk.records[key]
        if first:
            taken = [name for name in names if self.world.get(f"lock:{name}")]
            if taken:
                fault = Fault(f"{taken[0]} is held by another run", kind="refused")
                return await self._keep(key, status="failed", error=fault)
            return await self._keep(key)

        def land() -> Record | None:
            return None if self._held() & set(names) else self._record(outputs={"names": list(names)})

        return await self._fly(key, box, self.now, land, lambda kind, by: self._record(status=kind, by=by))

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        key = f"{key} unlock"
        if key in self.disk.records:
            return self.disk.records[key]
        record = await self._keep(key)
        for flight in self.flights.values():  # who waits for a lock looks again
            if flight.end is None and "lock" in str(flight.land.__qualname__):
                flight.end = self.now
        return record

    def _held(self) -> set[str]:
        """Locks that some step holds. What the run took at its start is the run's: its steps still take turns."""
        held: set[str] = set()
        for key, record in self.disk.records.items():
            if (
                key.endswith(" lock")
                and record.outputs
                and f"{key.removesuffix(' lock')} unlock" not in self.disk.records
            ):
                held.update(record.outputs["names"])
        return held

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        key = f"{key} secrets"
        if key in self.disk.records:
            return self.disk.records[key]
        return await self._keep(key, outputs={ref.name: f"secret:{ref.name}" in self.world for ref in refs})

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        if box.stopped is None:
            if not self._write():
                await self.loop.future()
            self.disk.stops[box.key] = kind
            box.stopped = kind

    def opened(self, box: Box) -> None:
        if box.key in self.disk.stops:
            box.stopped = self.disk.stops[box.key]

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        values.to_wire(dict(data))
        if not self.dead:
            self.disk.emitted.setdefault((kind, key), data)

    # --- for assertions

    def statuses(self) -> dict[str, str]:
        """Step key -> status, as journaled."""
        return {key: data["status"] for (kind, key), data in self.disk.emitted.items() if kind == "step.ended"}

    def events(self, kind: str) -> dict[str, Mapping[str, Any]]:
        return {key: data for (one, key), data in self.disk.emitted.items() if one == kind}


def original(key: str) -> str:
    """The key of the call that a doubtful one repeats; what follows a key stays."""
    return re.sub(r"(#\d+)~\d+(?=[^#]*$)", r"\1", key)


def again(toy: Toy, *, world: dict[str, Any] | None = None, **more: Any) -> Toy:
    """The next process over the same disk and world."""
    return Toy(toy.world if world is None else world, replace(toy.disk), **more)
