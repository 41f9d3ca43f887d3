"""Failure, time-outs, a cancel and a second cancel at every step: the unwinding is that of language.md, exactly.

On real effects: threads, a journal on disk, signals, files that change. What must happen is told by a model of the page
that shares nothing with the engine: a walk over the same tree, in which nothing is asynchronous and nothing is stored.
The clock is pushed forward instead of waited for. A playbook of all step kinds; its log is compared line by line.
"""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import Call, Change, Context, Observation, PermanentError
from runbook.interpreter.errors import Exit
from runbook.runner import driving, local
from runbook.runner.clock import Clock
from tests.runner_toys import Args, Lab, log_line, world_of

MINUTE = 60.0


# -- the world: changes that can be told to fail, to hang, to be cancelled


@dataclass
class Fate:
    """What befalls one change (`name=value`), the first time that it is made. `push`: seconds for the clock."""

    victim: str = ""
    kind: str = ""  # fails, hangs, cancelled, cancelled twice
    push: float = 0.0
    ahead: float = 0.0  # how far the clock was pushed
    spent: bool = False
    cancels: int = 0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


FATE = Fate()


class Put(Change[Args]):
    """Write a value into a file of the world, and meet one's fate."""

    name = "lab.put"

    def observe(self, args: Args, ctx: Context) -> Observation:
        path = world_of(ctx) / f"o_{args.name}"
        return {f"lab:{args.name}": path.read_text() if path.exists() else None}

    def expect(self, args: Args, before: Observation, ctx: Context) -> Observation:
        return {f"lab:{args.name}": None if args.value is None else str(args.value)}

    def apply(self, args: Args, before: Observation, ctx: Context) -> None:
        text = f"{args.name}={args.value}"
        log_line(world_of(ctx), text)
        path = world_of(ctx) / f"o_{args.name}"
        if args.value is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(str(args.value))
        if args.fail:
            raise PermanentError(args.fail)
        if FATE.cancels == 1 and FATE.kind == "cancelled twice":  # the first thing that the clean-up does
            FATE.cancels = 2
            os.kill(os.getpid(), signal.SIGINT)
            ctx.sleep(20)
        if FATE.spent or text != FATE.victim:
            return
        FATE.spent = True
        if FATE.kind == "fails":
            raise PermanentError(f"{text} broke")
        if FATE.kind == "hangs":
            FATE.ahead = FATE.push
            ctx.sleep(20)
        if FATE.kind.startswith("cancelled"):
            FATE.cancels = 1
            os.kill(os.getpid(), signal.SIGINT)
            ctx.sleep(20)

    def inverse(self, args: Args, before: Observation, op: str) -> Call | None:
        return Call("lab.put", {"name": args.name, "value": before[f"lab:{args.name}"]})


# -- a tree, written once: for the playbook and for the model


@dataclass(frozen=True)
class Node:
    """A step. `kind`: put, note, again, read, or a container."""

    id: str
    kind: str = "put"
    children: tuple[Node, ...] = ()
    more: str = ""  # keys that only the playbook needs
    minutes: float = 0.0  # its own time
    undo: bool = False
    steps: tuple[Node, ...] = ()
    then: str = "abort"
    last: tuple[Node, ...] = ()  # finally
    temporary: bool = False
    keep_going: bool = False
    author: tuple[Node, ...] = ()  # undo steps of the author
    value: str = "1"


def put(name: str, **more: Any) -> Node:
    return Node(name, minutes=more.pop("minutes", 30), **more)


ROOT = Node(
    "root",
    "block",
    (
        put("a1"),
        put("tempo", temporary=True),
        Node("restart", "again", minutes=30),
        Node("watch", "read", more=", background: true"),
        Node(
            "b1",
            "block",
            (
                put("b1a"),
                put("b1t", temporary=True),
                Node("b1in", "block", (put("in1"), put("in2")), last=(put("f_in"),)),
            ),
            minutes=45,
            undo=True,
            steps=(put("h_b1"),),
            then="continue",
            last=(put("f_b1"),),
        ),
        Node("p1", "parallel", (put("p1a"), put("p1b")), more=", max_concurrent: 1"),
        Node(
            "fb",
            "fallback",
            (
                Node("fb1", "block", (put("fb1a"), put("fb1b")), undo=True),
                Node("fb2", "block", (put("fb2a", temporary=True), put("fb2b")), undo=True),
            ),
            minutes=45,
        ),
        Node("c1", "choose", (put("c1a"), put("c1b"))),
        Node("each", "foreach", (put("e"),)),
        Node("k", "block", (put("k1"), put("k2"), put("k3")), keep_going=True, then="continue"),
        put("own", undo=True, steps=(put("h_own"),), then="continue"),
        Node("note", "note", author=(put("back"),), minutes=30),
        put("kept", more=", undo: none"),
        Node("poll", "read", more=", until: 'true', every: 1s"),
        Node(
            "sub",
            "playbook",
            (put("s1"), put("s2", temporary=True), put("s3")),
            steps=(put("h_sub"),),
            last=(put("f_sub"),),
        ),
        put("over_a1", value="2", more=", with: {name: a1, value: 2}"),
        put("end"),
    ),
    minutes=60,
    undo=True,
    steps=(put("h_root"),),
    last=(put("f_root"),),
)


def yaml(node: Node, indent: int) -> str:
    """A step as the playbook has it, in flow style from the leaves up."""
    pad = " " * indent
    head = f"{pad}- {{id: {node.id}"
    common = node.more
    if node.minutes:
        common += f", timeout: {node.minutes:g}m"
    if node.temporary:
        common += ", temporary: true"
    if node.keep_going:
        common += ", keep_going: true"
    if node.author:
        common += f", undo: {{steps: [{flow(node.author)}]}}"
    common += handlers(node)
    match node.kind:
        case "put":
            given = "" if ", with:" in node.more else f", with: {{name: {node.id}, value: {node.value}}}"
            return f"{head}, action: lab.put{given}{common}}}\n"
        case "note":
            return f"{head}, action: toy.note, with: {{name: {node.id}}}{common}}}\n"
        case "again":
            return f"{head}, action: toy.restart, with: {{name: web}}{common}}}\n"
        case "read":
            return f"{head}, action: toy.get, with: {{name: x}}{common}}}\n"
        case "playbook":
            return f"{head}, playbook: sub.yaml}}\n"
        case "choose":
            first, second = node.children
            never, taken = f"{{when: 'false', steps: [{flow((first,))}]}}", f"{{steps: [{flow((second,))}]}}"
            return f"{head}, choose: [{never}, {taken}]{common}}}\n"
        case "foreach":
            (body,) = node.children
            given = f"{{name: '{body.id}_{{{{ it }}}}', value: 1}}"
            inner = f"{{id: {body.id}, action: lab.put, timeout: 30m, with: {given}}}"
            return f"{head}, foreach: {{items: [x, y], as: it}}, steps: [{inner}]{common}}}\n"
    key = "steps" if node.kind == "block" else node.kind
    return f"{head}, {key}: [{flow(node.children)}]{common}}}\n"


def flow(nodes: Sequence[Node]) -> str:
    return ", ".join(yaml(node, 0).strip().removeprefix("- ") for node in nodes)


def handlers(node: Node) -> str:
    found = ""
    if node.undo or node.steps or node.then != "abort":
        found += f", on_failure: {{undo: {str(node.undo).lower()}, steps: [{flow(node.steps)}], then: {node.then}}}"
        found = found.replace("steps: [], ", "")
    if node.last:
        found += f", finally: {{steps: [{flow(node.last)}]}}"
    return found


def book(node: Node, name: str) -> str:
    text = f"runbook: 1\nname: {name}\n"
    if node.minutes:
        text += f"timeout: {node.minutes:g}m\n"
    for part in handlers(node).replace(", then: abort", "").split(", finally: "):
        if part.startswith(", on_failure: "):
            text += f"{part.removeprefix(', ')}\n"
        elif part:
            text += f"finally: {part}\n"
    return text + "steps:\n" + "".join(yaml(child, 2) for child in node.children)


# -- the model of language.md


@dataclass
class Made:
    """A change that stands, or what must be done again."""

    text: str
    back: str  # what the log says when it is taken back; '' = nothing is done
    node: Node
    path: tuple[str, ...]
    author: tuple[Node, ...] = ()
    again: bool = False
    returned: bool = False  # a temporary change that is back, and its return


@dataclass
class Model:
    """What happens, by the page. A result is None (all is well) or what stopped it: failed, cancelled, a box's id."""

    fate: Fate
    done: list[str] = field(default_factory=list)
    world: dict[str, str] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    spent: bool = False

    def run(self, node: Node, path: tuple[str, ...] = (), boxes: tuple[tuple[str, float], ...] = ()) -> str | None:
        path = (*path, node.id)
        boxes = (*boxes, (node.id, node.minutes * MINUTE)) if node.minutes else boxes
        stopped = self.body(node, path, boxes)
        if stopped is not None:
            if node.undo:
                self.undo(path)
            for step in node.steps:
                self.run(step, (*path, "!on_failure"))
        if node.kind not in ("put", "note", "again"):
            self.give_back(path)
        for step in node.last:
            self.run(step, (*path, "!finally"))
        if stopped in ("failed", node.id) and node.then == "continue":
            return None  # a failure, or its own time-out
        return "failed" if stopped == node.id else stopped  # its own time-out is a failure to those around it

    def body(self, node: Node, path: tuple[str, ...], boxes: tuple[tuple[str, float], ...]) -> str | None:
        match node.kind:
            case "put":
                name = "a1" if node.id == "over_a1" else node.id
                return self.put(node, name, node.value, path, boxes)
            case "note":
                self.done += ["start note", "done note"]
                self.made.append(Made("note", "", node, path, node.author))
                return None
            case "again":
                self.done.append("restart web")
                self.made.append(Made("restart", "restart web", node, path, again=True))
                return None
            case "read":
                return None
            case "choose":
                return self.run(node.children[1], path, boxes)
            case "foreach":
                for item in "xy":
                    stopped = self.put(node.children[0], f"e_{item}", "1", (*path, item), (*boxes, ("e", 30 * MINUTE)))
                    if stopped is not None:
                        return "failed" if stopped == "e" else stopped
                return None
            case "fallback":
                stopped = None
                for child in node.children:
                    stopped = self.run(child, path, boxes)
                    if stopped != "failed":
                        return stopped  # it won, or something from outside stopped it
                return stopped
        first = None
        for child in node.children:
            stopped = self.run(child, path, boxes)
            if stopped is not None and not (node.keep_going and stopped == "failed"):
                return stopped
            first = first or stopped
        return first

    def put(
        self, node: Node, name: str, value: str, path: tuple[str, ...], boxes: tuple[tuple[str, float], ...]
    ) -> str | None:
        before = self.world.get(name)
        self.done.append(f"{name}={value}")
        self.world[name] = value
        back = "" if ", undo: none" in node.more else f"{name}={before}"
        self.made.append(Made(f"{name}={value}", back, node, path))
        if self.spent or f"{name}={value}" != self.fate.victim:
            return None
        self.spent = True
        if self.fate.kind == "fails":
            return "failed"
        if self.fate.kind.startswith("cancelled"):
            return "cancelled"
        return next(
            box for box, seconds in boxes if seconds <= self.fate.push
        )  # of all boxes that are over, the outermost

    def undo(self, path: tuple[str, ...]) -> None:
        """Newest first; `again` steps last; what is undone is gone for any outer undo."""
        inside = [made for made in self.made if made.path[: len(path)] == path]
        self.made = [made for made in self.made if made not in inside]
        some = False
        for made in reversed(inside):
            if made.again:
                continue
            if made.author:
                some = True
                for step in made.author:
                    self.done.append(f"{step.id}={step.value}")
                    self.world[step.id] = step.value
            elif made.back:
                some = True
                self.take_back(made)
        for made in inside:
            if made.again and some:
                self.done.append(made.back)

    def take_back(self, made: Made) -> None:
        name, _, value = made.back.partition("=")
        self.done.append(made.back)
        if value == "None":
            self.world.pop(name, None)
        else:
            self.world[name] = value

    def give_back(self, path: tuple[str, ...]) -> None:
        """Temporaries of this block, newest first, unless an undo did it."""
        for made in [*reversed(self.made)]:
            if made.node.temporary and made.path[:-1] == path and not made.returned:
                made.returned = True
                self.take_back(made)
                # both stay: an outer undo stops the writers again, goes back, and starts them
                self.made.append(Made(made.back, made.text, made.node, made.path, returned=True))


def expected(fate: Fate) -> tuple[str | None, list[str], dict[str, str]]:
    model = Model(fate)
    stopped = model.run(ROOT)
    return stopped, model.done, model.world


# -- playing


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """In memory where the system has such a place: what a disk does is not what is tried here."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    monkeypatch.setattr(driving, "Clock", functools.partial(Clock, monotonic=FATE.monotonic))
    monkeypatch.setattr(local, "AGAIN", 0.0)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Lab.at(Path(folder), Put)
    FATE.__init__()  # type: ignore[misc]


def play(lab: Lab, victim: str = "", kind: str = "", push: float = 0.0) -> Any:
    FATE.__init__(victim, kind, push)  # type: ignore[misc]
    from runbook.runner import session

    sub = next(child for child in ROOT.children if child.id == "sub")
    loaded = lab.load(book(ROOT, "unwinding"), sub_yaml=book(sub, "sub"))
    return session.start(loaded, {}, world=lab.around)


def happened(lab: Lab) -> list[str]:
    return [line for line in lab.log() if not line.startswith("get ")]


def left(lab: Lab) -> dict[str, str]:
    return {path.name.removeprefix("o_"): path.read_text() for path in lab.world.glob("o_*")}


_calm = Model(Fate())
_calm.run(ROOT)
STEPS = [line for line in _calm.done if "=" in line and not line.endswith("=None")]
"""Every change of an undisturbed run, those of its finally steps included."""
MAIN = [step for step in STEPS if not step.startswith("f_")]


def test_an_undisturbed_run_is_as_the_model_says(lab: Lab) -> None:
    ended = play(lab)
    _, done, world = expected(Fate())
    assert ended.exit == Exit.SUCCEEDED, ended.outcome
    assert happened(lab) == done
    assert left(lab) == world
    assert len(MAIN) >= 20
    assert {"f_in=1", "f_b1=1", "f_sub=1", "f_root=1"} <= set(STEPS)


@pytest.mark.parametrize("victim", MAIN)
@pytest.mark.parametrize(
    ("kind", "push"),
    [("fails", 0), ("hangs", 31 * MINUTE), ("hangs", 46 * MINUTE), ("hangs", 61 * MINUTE), ("cancelled", 0)],
    ids=["fails", "its time is over", "its block's time is over", "the run's time is over", "cancelled"],
)
def test_at_every_step(lab: Lab, victim: str, kind: str, push: float) -> None:
    stopped, done, world = expected(Fate(victim, kind, push))
    ended = play(lab, victim, kind, push)
    assert FATE.spent
    assert happened(lab) == done
    assert left(lab) == world
    wanted = {None: Exit.SUCCEEDED, "cancelled": Exit.CANCELLED}.get(stopped, Exit.FAILED)
    assert ended.exit == wanted, ended.outcome
    assert ended.unfinished == ()


@pytest.mark.parametrize("victim", MAIN)
def test_a_second_cancel_leaves_the_rest_to_resume(lab: Lab, victim: str) -> None:
    """The first thing of the clean-up is cut; nothing more is done; resume does the rest, and nothing twice."""
    _, done, world = expected(Fate(victim, "cancelled"))
    ended = play(lab, victim, "cancelled twice")
    assert FATE.cancels == 2
    assert ended.exit == Exit.CANCELLED
    cut = happened(lab)
    assert cut == done[: len(cut)]
    assert cut[-1] != victim
    assert len(cut) == len(done[: done.index(victim)]) + 2 or cut[-2:] == done[len(cut) - 2 : len(cut)]
    assert ended.unfinished, "what is left is listed"
    again = lab.resume()
    assert again.exit == Exit.CANCELLED
    assert left(lab) == world
    assert happened(lab) == done, "in the same order as if there had been one cancel"


@pytest.mark.parametrize("victim", ["f_in=1", "f_b1=1", "f_sub=1", "f_root=1"])
def test_a_failing_finally_fails_its_scope_and_the_later_ones_run(lab: Lab, victim: str) -> None:
    """It is not swallowed by `continue`; what is around it unwinds as after any failure."""
    ended = play(lab, victim, "fails")
    assert ended.exit == Exit.FAILED
    log = happened(lab)
    assert log[-1] == "f_root=1"
    after = log[log.index(victim) + 1 :]
    if victim == "f_root=1":
        assert after == []
    else:
        assert after[-2:] == ["h_root=1", "f_root=1"]
        assert "a1=None" in after


@pytest.mark.parametrize("victim", ["h_b1=1", "h_own=1", "h_sub=1", "h_root=1"])
def test_a_failing_handler_hides_nothing_and_stops_no_later_one(lab: Lab, victim: str) -> None:
    first = {"h_b1=1": "b1a=1", "h_own=1": "own=1", "h_sub=1": "s1=1", "h_root=1": "end=1"}[victim]
    text = book(ROOT, "unwinding")
    sub = next(child for child in ROOT.children if child.id == "sub")
    FATE.__init__(victim, "fails")  # type: ignore[misc]
    name = first.partition("=")[0]
    broken = f"{{name: {name}, value: 1, fail: {name} broke}}"
    texts = [page.replace(f"{{name: {name}, value: 1}}", broken) for page in (text, book(sub, "sub"))]
    from runbook.runner import session

    ended = session.start(lab.load(texts[0], sub_yaml=texts[1]), {}, world=lab.around)
    assert ended.exit == Exit.FAILED
    log = happened(lab)
    assert victim in log
    assert log[-1] == "f_root=1"
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert "broke" in ended.outcome.error.message
