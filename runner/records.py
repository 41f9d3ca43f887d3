"""Records as journal data and back, and a run's past: what is on record, by key. It wins over everything live."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.interpreter.effects import Call, Fault, Record, Status, StopKind
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner.journal import Event
from runbook.runner.outcomes import Intent

ANSWERS: Mapping[str, str] = {
    "step.started": "start",
    "call.result": "call",
    "slept": "sleep",
    "answered": "ask",
    "locked": "lock",
    "unlocked": "unlock",
    "secrets": "secrets",
}
"""Kinds of events that answer the engine -> the question that they answer."""

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, sort_keys=True).encode


def imprint(call: Call, wire: Any) -> str:
    """What a recorded call is recognised by: its action and arguments (on the wire: seals, never secrets)."""
    return hashlib.sha256(f"{call.action}\n{_dumps(wire)}".encode()).hexdigest()[:16]


def fault_to_wire(fault: Fault | None) -> dict[str, Any] | None:
    """As `steps.<id>.error` shows it."""
    if fault is None:
        return None
    wire: dict[str, Any] = {
        "message": fault.message,
        "kind": fault.kind,
        "temporary": fault.temporary,
        "attempt": fault.attempt,
    }
    if fault.hint is not None:
        wire["hint"] = fault.hint
    if fault.retry_after is not None:
        wire["retry_after"] = fault.retry_after
    return wire


def fault_from_wire(wire: Mapping[str, Any] | None) -> Fault | None:
    if wire is None:
        return None
    return Fault(
        wire["message"], wire["kind"], wire["temporary"], wire["attempt"], wire.get("hint"), wire.get("retry_after")
    )


def call_to_wire(call: Call | None) -> dict[str, Any] | None:
    """An inverse, as an intent holds it."""
    if call is None:
        return None
    return {
        "action": call.action,
        "args": to_wire(call.args),
        "effect": call.effect,
        "step": call.step,
        "base": call.base,
        "idempotent": call.idempotent,
        "again": call.again,
    }


def call_from_wire(wire: Mapping[str, Any] | None) -> Call | None:
    if wire is None:
        return None
    return Call(
        key="",
        op="",
        step=wire["step"],
        action=wire["action"],
        args=from_wire(wire["args"]),
        effect=wire["effect"],
        idempotent=wire["idempotent"],
        again=wire["again"],
        base=wire["base"],
        inverse=True,
    )


def intent_to_wire(intent: Intent) -> dict[str, Any]:
    wire = {
        "before": to_wire(intent.before),
        "after": to_wire(intent.after),
        "inverse": call_to_wire(intent.inverse),
        "version": intent.version,
        "irreversible": intent.irreversible,
        "computed": intent.computed,
        "diff": list(intent.diff),
    }
    if intent.origin is not None:
        wire["origin"] = to_wire(intent.origin)
    return {name: value for name, value in wire.items() if value not in (None, False, [])}


def intent_from_wire(wire: Mapping[str, Any]) -> Intent | None:
    """None: the intent of an opaque call, which knows neither before nor after."""
    if "before" not in wire:
        return None
    return Intent(
        before=from_wire(wire["before"]),
        after=from_wire(wire["after"]),
        inverse=call_from_wire(wire.get("inverse")),
        origin=from_wire(wire["origin"]) if "origin" in wire else None,
        version=wire.get("version"),
        irreversible=wire.get("irreversible", False),
        computed=wire.get("computed"),
        diff=tuple(wire.get("diff", ())),
    )


def _record(event: Event, inverse: Call | None) -> Record:
    data = event.data
    if event.kind == "secrets":
        fault = fault_from_wire(data.get("@error"))
        present = {name: there for name, there in data.items() if name != "@error"}
        return Record(event.seq, event.at, event.wall, "failed" if fault else "succeeded", outputs=present, error=fault)
    status: Status = "running" if event.kind == "step.started" else "succeeded"
    return Record(
        seq=event.seq,
        at=event.at,
        wall=event.wall,
        status=data.get("stop") or data.get("status") or status,
        outputs=from_wire(data["outputs"]) if "outputs" in data else None,
        error=fault_from_wire(data.get("error")),
        by=data.get("by"),
        changed=data.get("changed", False),
        inverse=inverse if data.get("inverse") else None,
        irreversible=data.get("irreversible", False),
    )


@dataclass(slots=True)
class Past:
    """What the journal held when this process began."""

    answers: dict[tuple[str, str], Event] = field(default_factory=dict)
    intents: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # call key -> data of call.intent
    first: dict[str, str] = field(default_factory=dict)  # operation -> key of its first intent
    attempts: dict[str, list[str]] = field(default_factory=dict)  # operation -> keys of all its intents
    keys: dict[int, str] = field(default_factory=dict)  # seq of a result -> call key
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)  # operation -> notes, on the wire
    emitted: set[tuple[str, str]] = field(default_factory=set)
    stops: dict[str, StopKind] = field(default_factory=dict)
    asked: dict[str, Event] = field(default_factory=dict)
    given: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)  # question -> answers so far
    sleeping: dict[str, float] = field(default_factory=dict)  # key -> until, in running seconds
    left: dict[str, Any] = field(default_factory=dict)  # object -> the state that this run last left it in, on the wire
    held: dict[str, dict[str, int]] = field(default_factory=dict)  # step key -> lock names and tokens
    pins: dict[str, str] = field(default_factory=dict)  # names that mean one thing for the whole run
    refused: Fault | None = None  # why preflight refused the run
    at: float = 0.0
    wall: float = 0.0

    def answer(self, question: str, key: str) -> Record | None:
        """The recorded answer, if there is one."""
        event = self.answers.get((question, key))
        if event is None:
            return None
        inverse = None
        if question == "call" and event.data.get("inverse"):
            origin = self.first.get(str(event.data.get("op") or ""))
            inverse = call_from_wire(self.intents[origin].get("inverse")) if origin is not None else None
        return _record(event, inverse)

    def absorb(self, event: Event) -> None:
        """One more event, in order."""
        kind, key, data = event.kind, event.key, event.data
        self.at, self.wall = max(self.at, event.at), max(self.wall, event.wall)
        question = ANSWERS.get(kind)
        if question is not None:
            self.answers[question, key] = event
        match kind:
            case "call.intent":
                self.intents[key] = data
                self.intended(key, data)
            case "call.result":
                self.ended(event.seq, key, data)
            case "call.note":
                self.notes.setdefault(key, {})[str(data["key"])] = data["value"]
            case "pinned":
                self.pins.setdefault(key, str(data["value"]))
            case "stop":
                self.stops.setdefault(key, data["kind"])
            case "asked":
                self.asked[key] = event
            case "answer.given":
                self.given.setdefault(key, []).append(data)
            case "sleep.began":
                self.sleeping[key] = data["until"]
            case "preflight":
                self.refused = fault_from_wire(data.get("refused"))
            case _:
                self._lock_moved(kind, key, data)

    def _lock_moved(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        match kind:
            case "locked":
                self.held[key] = dict(data.get("tokens") or {})
            case "unlocked":
                self.held.pop(key, None)
            case "resumed":
                for tokens in self.held.values():  # they were taken anew, with later numbers
                    tokens |= {name: token for name, token in (data.get("tokens") or {}).items() if name in tokens}

    def intended(self, key: str, data: Mapping[str, Any]) -> None:
        """An intent is on record: what undo compares with, and what later attempts keep."""
        if "before" in data:
            self.first.setdefault(str(data["op"]), key)
            self.attempts.setdefault(str(data["op"]), []).append(key)
        if "origin" in data:  # what an earlier attempt left
            self.left |= data["before"]

    def ended(self, seq: int, key: str, data: Mapping[str, Any]) -> None:
        """A result is on record."""
        self.keys[seq] = key
        intent = self.intents.get(key)
        if intent is not None and "after" in intent and data["status"] == "succeeded":
            self.left |= intent["after"]

    def tokens(self) -> dict[str, int]:
        """Locks that are on record as held."""
        return {name: token for tokens in self.held.values() for name, token in tokens.items()}


def read_past(events: Iterable[Event]) -> Past:
    """Fold a journal."""
    past = Past()
    for event in events:
        past.absorb(event)
        if event.kind not in ANSWERS:
            past.emitted.add((event.kind, emit_key(event.kind, event.key, event.data)))
    return past


def emit_key(kind: str, key: str, data: Mapping[str, Any]) -> str:
    """What makes an emitted event the same one again; a step may have several warnings, an undo may be tried again."""
    if kind == "warning":
        return f"{key}\n{data.get('message')}"
    if kind != "undone":
        return key
    phase = "" if data.get("ok") else data.get("phase")  # it may fail again, and otherwise, in a later round
    return f"{key}\n{data.get('seq')}\n{data.get('ok')}\n{phase}"
