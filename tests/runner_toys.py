"""A world that is a folder, and actions that change it: real files, threads and journals for tests of the runner."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from runbook.contract import (
    Action,
    Call,
    Change,
    Context,
    Notify,
    Observation,
    Opaque,
    Outputs,
    PermanentError,
    Read,
    TemporaryError,
    param,
)
from runbook.interpreter.catalogue import ActionSpec
from runbook.interpreter.errors import Place
from runbook.interpreter.inputs import coerce
from runbook.interpreter.load import Loaded, load
from runbook.runner import parameters, session
from runbook.runner.journal import Event
from runbook.runner.people import Answer
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from runbook.runner.walk import looks_ahead


def log_line(world: Path, text: str) -> None:
    """One line, whole, however many write."""
    descriptor = os.open(world / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def world_of(ctx: Context) -> Path:
    return Path(ctx.environ["WORLD"])


@dataclass(frozen=True, kw_only=True)
class Args:
    name: str = param("The object.", default="")
    value: Any = param("Its wanted value.", default=None)
    seconds: float = param("How long it takes.", default=0.0)
    fail: str = param("permanent, temporary, bug, or the message of a permanent error.", default="")
    times: int = param("How often it fails before it works.", default=0)
    text: str = param("Some text; a secret may stand here.", default="", secret=True)


class Get(Read[Args]):
    """Read a file, or give back what was given."""

    name = "toy.get"
    returns = {"value": "what the file holds"}

    def read(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"get {args.name}")
        ctx.sleep(args.seconds)
        path = world_of(ctx) / f"o_{args.name}"
        return {"value": path.read_text() if path.exists() else args.value}


class Note(Opaque[Args]):
    """Says in the log when it begins and ends: whether it was repeated can be read there. Not idempotent."""

    name = "toy.note"
    returns = {"name": "as given", "text": "as given"}

    def run(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"start {args.name}")
        ctx.log(f"{args.name} says {args.text}")
        time.sleep(args.seconds)
        if args.fail == "bug":
            raise ZeroDivisionError("a bug")
        if args.fail == "temporary":
            raise TemporaryError("not now", retry_after=0.01)
        if args.fail:
            raise PermanentError(f"{args.fail} {args.text}", outputs={"rc": 3})
        log_line(world_of(ctx), f"done {args.name}")
        return {"name": args.name, "text": args.text}


class Tell(Notify[Args]):
    """Tell somebody."""

    name = "toy.tell"

    def run(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"tell {args.name}")
        ctx.sleep(args.seconds)
        return {}


class Set(Change[Args]):
    """Write a value into a file of the world."""

    name = "toy.set"
    returns = {"previous": "the value before", "value": "the value now"}

    def observe(self, args: Args, ctx: Context) -> Observation:
        path = world_of(ctx) / f"o_{args.name}"
        return {f"toy:{args.name}": path.read_text() if path.exists() else None}

    def expect(self, args: Args, before: Observation, ctx: Context) -> Observation:
        return {f"toy:{args.name}": None if args.value is None else str(args.value)}

    def apply(self, args: Args, before: Observation, ctx: Context) -> None:
        log_line(world_of(ctx), f"start {args.name}={args.value}")
        time.sleep(args.seconds)
        path = world_of(ctx) / f"o_{args.name}"
        if args.value is None:
            path.unlink(missing_ok=True)
        else:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(str(args.value))
            temporary.replace(path)
        log_line(world_of(ctx), f"done {args.name}={args.value}")
        tries = world_of(ctx) / f"tries_{args.name}"
        count = int(tries.read_text()) if tries.exists() else 0
        tries.write_text(str(count + 1))
        if count < args.times:
            raise TemporaryError("applied, and then the answer was lost", retry_after=0.01)
        if args.fail:
            raise PermanentError(args.fail)

    def inverse(self, args: Args, before: Observation, op: str) -> Call | None:
        return Call("toy.set", {"name": args.name, "value": before[f"toy:{args.name}"]})

    def outputs(self, args: Args, before: Observation, after: Observation) -> Outputs:
        return {"previous": before[f"toy:{args.name}"], "value": after[f"toy:{args.name}"]}


class Restart(Change[Args]):
    """Restart something: it carries the id of the operation that did it last."""

    name = "toy.restart"
    undo = "again"

    def observe(self, args: Args, ctx: Context) -> Observation:
        path = world_of(ctx) / f"restarted_{args.name}"
        return {f"restart:{args.name}": path.read_text() if path.exists() else None}

    def expect(self, args: Args, before: Observation, ctx: Context) -> Observation:
        return {f"restart:{args.name}": ctx.op}

    def apply(self, args: Args, before: Observation, ctx: Context) -> None:
        (world_of(ctx) / f"restarted_{args.name}").write_text(ctx.op)
        log_line(world_of(ctx), f"restart {args.name}")


class Hang(Opaque[Args]):
    """Never comes back, and cannot be cut: a thread stuck in a C library."""

    name = "toy.hang"

    def run(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"start hang {args.name}")
        while True:
            time.sleep(60)


class Polite(Opaque[Args]):
    """Waits for its deadline, or for a file `go`, and comes back."""

    name = "toy.polite"

    def run(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"start polite {args.name}")
        until = time.monotonic() + (args.seconds or 3600)
        while time.monotonic() < until and not (world_of(ctx) / "go").exists():
            ctx.sleep(0.02)
        return {}


class Big(Read[Args]):
    """A lot of output."""

    name = "toy.big"

    def read(self, args: Args, ctx: Context) -> Outputs:
        if args.name == "list":
            return {"rows": ["x" * 1000] * 2000}
        return {"stdout": "é" * 2_000_000, "rc": 0}


ACTIONS: Mapping[str, type[Action[Any]]] = {
    kind.name: kind for kind in (Get, Note, Tell, Set, Restart, Hang, Polite, Big)
}


class Toys:
    """A registry of the toys, beside the actions that ship."""

    def __init__(self, more: Sequence[type[Action[Any]]] = ()) -> None:
        self._actions = {**ACTIONS, **{kind.name: kind for kind in more}}

    def find(self, name: str) -> type[Action[Any]]:
        if name in self._actions:
            return self._actions[name]
        from runbook.runner import registry

        return registry.find(name)

    @staticmethod
    def parse(action: type[Action[Any]], given: Mapping[str, Any], base: str = "") -> Any:
        return parameters.parse(action, given, base)

    def catalogue(self) -> Mapping[str, ActionSpec]:
        from runbook.runner import registry

        own = {name: _spec(kind) for name, kind in self._actions.items()}
        return {
            **{name: registry.catalogue()[name] for name in ("flow.set", "flow.wait", "flow.assert")},
            **_people(),
            **own,
        }


def _people() -> dict[str, ActionSpec]:
    from runbook.runner import registry

    return {
        name: registry.catalogue()[name]
        for name in ("manual.approve", "manual.choose", "manual.checklist", "shell.run")
    }


def _spec(kind: type[Action[Any]]) -> ActionSpec:
    form = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {} for name in ("name", "value", "seconds", "fail", "times")}
        | {"text": {"x-secret": True}},
    }
    return ActionSpec(
        kind.name,
        kind.effect,  # type: ignore[arg-type]
        form,
        outputs=kind.returns,
        irreversible=kind.irreversible,
        idempotent=kind.idempotent,
        undo=kind.undo,
        lane=(kind.lane or "toy") if kind.effect == "notify" else "",
        preflight=looks_ahead(kind),
    )


@dataclass
class Lab:
    """A home, a world, and runs in them."""

    folder: Path
    environ: dict[str, str]
    registry: Toys

    @classmethod
    def at(cls, folder: Path, *more: type[Action[Any]], **environ: str) -> Self:
        world = folder / "world"
        world.mkdir(exist_ok=True)
        around = {"PATH": os.environ["PATH"], "HOME": str(folder), "WORLD": str(world), **environ}
        return cls(folder, around, Toys(more))

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @property
    def store(self) -> Store:
        return Store(self.folder / "home")

    @property
    def around(self) -> session.World:
        return session.World(store=self.store, surroundings=Real(self.environ), registry=self.registry)

    def load(self, text: str, **files: str) -> Loaded:
        everything = {"p.yaml": text, **{name.replace("_yaml", ".yaml"): body for name, body in files.items()}}
        loaded = load("p.yaml", lambda name: everything[name], self.registry.catalogue())
        assert not [p for p in loaded.problems if p.severity == "error"], loaded.problems
        return loaded

    def run(
        self,
        text: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        options: session.Options | None = None,
        listeners: Sequence[Callable[[Event], None]] = (),
        ask: Callable[..., Answer | None] | None = None,
    ) -> session.Ended:
        loaded = self.load(text)
        assert loaded.playbook is not None
        values, problems = coerce(loaded.playbook.inputs, inputs or {}, {}, Place("test"))
        assert not problems, problems
        return session.start(loaded, values, world=self.around, options=options, listeners=listeners, ask=ask)

    def resume(self, run: str = "last", **options: Any) -> session.Ended:
        return session.resume(run, world=self.around, options=session.Options(**options))

    def undo(self, run: str = "last", **options: Any) -> session.Ended:
        return session.undo(run, world=self.around, options=session.Options(**options))

    def log(self) -> list[str]:
        path = self.world / "log"
        return path.read_text().splitlines() if path.exists() else []

    def value(self, name: str) -> str | None:
        path = self.world / f"o_{name}"
        return path.read_text() if path.exists() else None

    def put(self, name: str, value: str) -> None:
        (self.world / f"o_{name}").write_text(value)

    def events(self, ended: session.Ended | None = None) -> list[Event]:
        from runbook.runner.journal import Journal

        folder = ended.folder if ended is not None else self.store.find("last")
        journal = Journal.open(folder.journal, readonly=True)
        try:
            return list(journal.events())
        finally:
            journal.close()


def steps(events: Sequence[Event]) -> dict[str, str]:
    """Step path -> status."""
    return {event.key: event.data["status"] for event in events if event.kind == "step.ended"}
