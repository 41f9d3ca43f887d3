"""Short ways to write playbooks for the toy world, as the loader would give them."""

from __future__ import annotations

import re
from typing import Any

from runbook.interpreter.engine import Engine, Outcome, RunInfo
from runbook.interpreter.model import (
    Action,
    Bare,
    Block,
    Branch,
    Choose,
    Fallback,
    Foreach,
    OnFailure,
    Parallel,
    Playbook,
    Poll,
    Step,
    SubPlaybook,
    Template,
    Undo,
)
from tests.effects_toy import Toy

UNDO = OnFailure(undo=True)
CONTINUE = OnFailure(then="continue")
_EFFECTS = {
    "toy.set": "change",
    "toy.restart": "change",
    "toy.get": "read",
    "toy.count": "read",
    "toy.check": "check",
    "toy.run": "opaque",
    "toy.tell": "notify",
    "flow.wait": "read",
    "flow.set": "read",
    "flow.assert": "check",
    "manual.approve": "ask",
    "manual.choose": "ask",
    "manual.checklist": "ask",
}


def _reads(data: Any) -> frozenset[str]:
    return frozenset(re.findall(r"\bsteps\.(\w+)", str(data)))


def template(data: Any) -> Template:
    return Template(data, reads=_reads(data))


def bare(source: str) -> Bare:
    return Bare(source, reads=_reads(source))


def _common(more: dict[str, Any], *own: Any) -> dict[str, Any]:
    """`when` and `outputs` from text; `sees` as the loader computes it."""
    found = _reads(own)
    if isinstance(more.get("when"), str):
        more["when"] = bare(more["when"])
    if "outputs" in more:
        more["outputs"] = tuple((name, bare(source)) for name, source in more["outputs"].items())
        found |= _reads(more["outputs"])
    if "locks" in more:
        more["locks"] = tuple(template(name) for name in more["locks"])
    if isinstance(more.get("when"), Bare):
        found |= more["when"].reads
    return {"sees": found, **more}


def act(id_: str, action: str, args: dict[str, Any] | None = None, **more: Any) -> Action:
    args = args or {}
    more = _common(more, args)
    if action == "toy.restart":
        more.setdefault("undo", Undo("again"))
    effect: Any = _EFFECTS[action]
    return Action(id=id_, action=action, with_=template(args), effect=effect, **more)


def put(
    id_: str,
    key: str,
    value: Any = 1,
    *,
    takes: Any = 0,
    back: float = 0,
    fail: str = "",
    late: str = "",
    **more: Any,
) -> Action:
    extra = {name: more.pop(name) for name in ("temporary_error", "back_fails", "hangs") if name in more}
    args: dict[str, Any] = {"key": key, "value": value, "takes": takes, "back": back, "fail": fail, "late": late}
    if extra.get("temporary_error"):
        args["temporary"] = True
    args |= {name: value for name, value in extra.items() if name != "temporary_error"}
    return act(id_, "toy.set", args, idempotent=True, **more)


def fail(id_: str, after: Any = 0, **more: Any) -> Action:
    return act(id_, "toy.get", {"key": "x", "takes": after, "fail": f"{id_} broke"}, **more)


def get(id_: str, key: str, takes: Any = 0, **more: Any) -> Action:
    return act(id_, "toy.get", {"key": key, "takes": takes}, **more)


def check(id_: str, ok: Any = True, **more: Any) -> Action:
    return act(id_, "toy.check", {"ok": ok}, **more)


def wait(id_: str, seconds: float, **more: Any) -> Action:
    return act(id_, "flow.wait", {"for": seconds}, **more)


def run(id_: str, takes: Any = 0, fail: str = "", **more: Any) -> Action:
    return act(id_, "toy.run", {"takes": takes, "fail": fail}, **more)


def tell(id_: str, text: str = "", takes: Any = 0, fail: str = "", **more: Any) -> Action:
    more = {"lane": "toy", "attempt": 10.0, **more}
    return act(id_, "toy.tell", {"text": text, "takes": takes, "fail": fail}, **more)


def block(id_: str, *steps: Step, **more: Any) -> Block:
    return Block(id=id_, steps=steps, **_common(more))


def parallel(id_: str, *steps: Step, **more: Any) -> Parallel:
    return Parallel(id=id_, steps=steps, **_common(more))


def fallback(id_: str, *steps: Step, **more: Any) -> Fallback:
    return Fallback(id=id_, steps=steps, **_common(more))


def choose(id_: str, *branches: tuple[str | None, tuple[Step, ...]], **more: Any) -> Choose:
    made = tuple(Branch(None if when is None else bare(when), steps) for when, steps in branches)
    reads = frozenset().union(*(b.when.reads for b in made if b.when is not None))
    common = _common(more)
    return Choose(id=id_, branches=made, **{**common, "sees": common["sees"] | reads})


def foreach(id_: str, items: Any, *steps: Step, as_: str = "item", **more: Any) -> Foreach:
    return Foreach(id=id_, items=template(items), as_=as_, steps=steps, **_common(more, items))


def sub(id_: str, playbook: Playbook, with_: dict[str, Any] | None = None, **more: Any) -> SubPlaybook:
    return SubPlaybook(id=id_, playbook=playbook, with_=template(with_ or {}), **_common(more, with_))


def book(*steps: Step, name: str = "toy", **more: Any) -> Playbook:
    for key in ("vars", "outputs"):
        if key in more:
            more[key] = tuple((item, template(data)) for item, data in more[key].items())
    if "locks" in more:
        more["locks"] = tuple(template(one) for one in more["locks"])
    return Playbook(name=name, file=f"{name}.yaml", steps=steps, **more)


def poll(until: str | None, **more: Any) -> Poll:
    if isinstance(more.get("fail_when"), str):
        more["fail_when"] = bare(more["fail_when"])
    return Poll(None if until is None else bare(until), **more)


INFO = RunInfo("r1", "toy", "ann", 1000.0)


def engine(playbook: Playbook, toy: Toy, inputs: dict[str, Any] | None = None, *, interactive: bool = False) -> Engine:
    return Engine(playbook, inputs or {}, INFO, toy, interactive=interactive)


def play(
    playbook: Playbook,
    world: dict[str, Any] | None = None,
    *,
    inputs: dict[str, Any] | None = None,
    interactive: bool = False,
    **more: Any,
) -> tuple[Outcome, Toy]:
    """A run from beginning to end, and what it left."""
    toy = Toy({} if world is None else world, **more)
    out = toy.play(engine(playbook, toy, inputs, interactive=interactive))
    return out, toy
