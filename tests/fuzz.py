"""Random playbooks of all step kinds, killed at random journal writes, twice, and resumed.

    python -m tests.fuzz --seconds 3600 [--seed N] [--only N]

Each playbook is made from one number, so that a violation is repeated by `--only N`; what that prints is shrunk: steps
that do not matter are taken out.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
import traceback
from collections.abc import Iterator
from itertools import count
from typing import Any

from runbook.interpreter.model import Action, Choose, Input, OnFailure, Playbook, Retry, Step, SubPlaybook, Undo
from tests.law import Case, Played, somewhere, undisturbed
from tests.playbooks_toy import (
    act,
    block,
    book,
    check,
    choose,
    fail,
    fallback,
    foreach,
    get,
    parallel,
    poll,
    put,
    run,
    sub,
    tell,
    wait,
)

WEIGHTS = (1.0, 4.17, 1.39, 6.31, 2.23, 0.71, 3.67, 0.53)
"""Of an item's letters: no two of the items that are made (`p`, `q2`, `x_p_q`) weigh the same."""


class Maker:
    """Makes one random playbook. Times have odd fractions: no two things happen at the same moment by chance."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.numbers = count(1)
        self.readable: list[str] = []
        self.told: list[str] = []
        self.items: list[str] = []
        self.asks: dict[str, Any] = {}
        self.at_once = False

    def seconds(self, most: float = 5.0) -> float:
        return round(self.r.uniform(0.01, most), 4)

    def takes(self, most: float = 5.0) -> Any:
        """How long something takes; in an iteration a little more for each item, so that no two end at once."""
        base = self.seconds(most)
        if not self.items:
            return base
        more = [
            f"{round(0.0037 * (1 + 0.37 * depth) * weight, 6)} * 'pqrst2_x'.find({item}[{at}:{at + 1}])"
            for depth, item in enumerate(self.items)
            for at, weight in enumerate(WEIGHTS)
        ]
        return f"{{{{ {base} + {' + '.join(more)} }}}}"

    def id(self, kind: str) -> str:
        return f"{kind}{next(self.numbers)}"

    def case(self) -> Case:
        r = self.r
        steps = self.steps(3, 1, 3)
        more: dict[str, Any] = {}
        if r.random() < 0.4:
            more["timeout"] = self.seconds(30)
        if r.random() < 0.3:
            more["finally_"] = self.handlers()
        on_failure = OnFailure(r.random() < 0.5, self.handlers() if r.random() < 0.3 else ())
        cleanup = r.choice([500.0, 500.0, self.seconds(6)])
        if on_failure.undo and self.at_once:
            cleanup = (
                500.0  # newest first: of branches a kill may change which that is, and so what is left without time
            )
        playbook = book(
            *steps,
            on_failure=on_failure,
            cleanup=cleanup,
            outputs={"status": f"{{{{ steps.{steps[0].id}.status }}}}"},
            **more,
        )
        cancels = r.choice([(), (), (self.seconds(20),), tuple(sorted(self.seconds(20) for _ in "12"))])
        rounds = ("finish", "undo") if len(cancels) > 1 else r.choice([(), (), ("undo",)])
        return Case(playbook, {}, cancels, self.asks, rounds)

    def steps(self, depth: int, least: int, most: int) -> tuple[Step, ...]:
        return tuple(self.step(depth) for _ in range(self.r.randint(least, most)))

    def handlers(self) -> tuple[Step, ...]:
        """Steps of a handler; sometimes a small block with an end of its own."""
        return self.steps(1 if self.r.random() < 0.3 else 0, 1, 2)

    def step(self, depth: int) -> Step:
        kinds = ["put"] * 5 + ["bad", "late", "nap", "get", "poll", "check", "opaque", "tell", "restart", "ask"]
        if depth:
            kinds += ["block", "block", "parallel", "foreach", "fallback", "choose"] * 2 + ["sub"]
        kind = self.r.choice(kinds)
        made: Step = (
            getattr(self, f"_{kind}")() if not hasattr(self, f"_deep_{kind}") else getattr(self, f"_deep_{kind}")(depth)
        )
        if self.r.random() < 0.06 and self.readable:
            made = dataclasses.replace(made, **self._when())
        if kind == "tell":
            self.told.append(made.id)  # only its like may read it: others would wait for its lane
        else:
            self.readable.append(made.id)
        return made

    def _when(self) -> dict[str, Any]:
        named = self.r.choice(self.readable)
        from tests.playbooks_toy import bare

        return {"when": bare(f"steps.{named}.status != 'failed'"), "sees": frozenset({named})}

    def leaf(self) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if self.r.random() < 0.15:
            more["on_failure"] = OnFailure(then="continue")
        if self.r.random() < 0.1:
            more["milestone"] = self.r.choice(["one", "two", "three"])
        if self.r.random() < 0.08:
            more["locks"] = [self.r.choice(["l1", "l2"])]
        return more

    def key(self, step_id: str) -> str:
        """A key of the world that only this step writes; in an iteration it holds the item."""
        return step_id + "".join(f"_{{{{ {item} }}}}" for item in self.items)

    def _put(self) -> Step:
        step_id, temporary = self.id("put"), self.r.random() < 0.25
        more = self.leaf()
        if self.r.random() < 0.1:
            more["on_failure"] = OnFailure(undo=True, then=self.r.choice(["abort", "continue"]))
        back_fails = "stuck" if self.r.random() < 0.04 else ""
        key = self.key(step_id) + ("_T" if temporary else "")
        return put(
            step_id, key, 1, takes=self.takes(), back=self.seconds(2), temporary=temporary, back_fails=back_fails,
            attempt=self.r.choice([300.0, 300.0, self.seconds()]), **more,
        )  # fmt: skip

    def _late(self) -> Step:
        step_id = self.id("late")
        retry = Retry(
            self.r.choice([1, 2, 3]), delay=self.seconds(3), max_duration=self.r.choice([None, None, self.seconds(9)])
        )
        return put(
            step_id,
            self.key(step_id),
            1,
            takes=self.takes(),
            back=self.seconds(2),
            late="answer lost",
            retry=retry,
            **self.leaf(),
        )

    def _restart(self) -> Step:
        return act(
            self.id("restart"), "toy.restart", {"name": self.key("app"), "takes": self.takes(2)}, idempotent=True
        )

    def _opaque(self) -> Step:
        step_id = self.id("run")
        undo = self.r.choice(
            [
                Undo("none"),
                Undo("steps", (put(f"{step_id}_back", f"{self.key(step_id)}_back", 1, takes=self.takes(1)),)),
            ]
        )
        return run(step_id, takes=self.takes(), undo=undo, **self.leaf())

    def _bad(self) -> Step:
        step_id = self.id("bad")
        retry = self.r.choice([None, Retry(2, delay=self.seconds(2))])
        return fail(step_id, self.takes(), retry=retry, **self.leaf())

    def _get(self) -> Step:
        more = self.leaf()
        if self.r.random() < 0.2:
            more["outputs"] = {"mine": self.r.choice(["result.value", "result.nothing.at.all"])}
        if self.r.random() < 0.2:
            more["background"] = True
        return get(self.id("get"), "x", self.takes(), **more)

    def _check(self) -> Step:
        return check(self.id("check"), self.r.random() < 0.7, **self.leaf())

    def _nap(self) -> Step:
        timeout = self.r.choice([None, None, self.seconds()])
        more = self.leaf()
        if self.r.random() < 0.15:
            more["background"] = True
        return wait(self.id("nap"), self.seconds(), timeout=timeout, **more)

    def _poll(self) -> Step:
        wanted = self.r.choice([1, 2, 4, 9])
        return act(
            self.id("poll"), "toy.count", {"takes": self.takes(1)},
            poll=poll(
                f"result.n >= {wanted}", every=self.seconds(3), hold=self.r.choice([0.0, 0.0, self.seconds(4)]),
                timeout=self.seconds(12),
            ),
            **self.leaf(),
        )  # fmt: skip

    def _tell(self) -> Step:
        step_id = self.id("tell")
        more = self.leaf()
        if self.r.random() < 0.4 and self.readable:
            named = [f"{{{{ steps.{name}.status }}}}" for name in self.r.sample(self.readable + self.told, 1)]
            text = f"now {' '.join(named)} {{{{ nothing.there }}}} {{{{ run.elapsed }}}}"
        else:
            text = "hello"
        more.pop("on_failure", None)
        more.pop("milestone", None)
        return tell(
            step_id,
            text,
            takes=self.takes(14),
            fail=self.r.choice(["", "", "no route"]),
            lane=self.r.choice(["one", "two"]),
            **more,
        )

    def _ask(self) -> Step:
        step_id = self.id("ask")
        kind = self.r.choice(["manual.approve", "manual.choose"])
        script: dict[str, Any] = {"choice": "a", "after": self.seconds(8)}
        if self.r.random() < 0.2:
            script["declines"] = True
        args: dict[str, Any] = {"message": "well?"}
        if kind == "manual.choose":
            args["choices"] = {"a": "one"}
            args["default"] = self.r.choice([None, "a"])
        self.asks[step_id] = script
        # asked by path; the toy looks answers up by the last step_id too
        return act(step_id, kind, args, timeout=self.r.choice([None, self.seconds(9)]), **self.leaf())

    def outer(self) -> dict[str, Any]:
        r, more = self.r, self.leaf()
        if r.random() < 0.3:
            more["timeout"] = self.seconds(12)
        steps = self.handlers() if r.random() < 0.2 else ()
        more["on_failure"] = OnFailure(r.random() < 0.5, steps, "continue" if r.random() < 0.2 else "abort")
        if r.random() < 0.2:
            more["finally_"] = self.handlers()
        more["cleanup"] = r.choice([500.0, 500.0, 500.0, self.seconds(5)])
        if r.random() < 0.1:
            more["temporary"] = True
        return more

    def inner(self, depth: int) -> tuple[Step, ...]:
        return self.steps(depth - 1, 1, 4)

    def tolerance(self) -> Any:
        return self.r.choice([None, None, None, True, 1, "40%"])

    def _deep_block(self, depth: int) -> Step:
        more = self.outer()
        if self.r.random() < 0.05:
            undo_id = self.id("blockback")
            more["undo"] = Undo("steps", (put(undo_id, self.key(undo_id), 1, takes=self.takes(1)),))
        if self.r.random() < 0.1:
            more["background"] = True
        return block(self.id("block"), *self.inner(depth), keep_going=self.tolerance(), **more)

    def _deep_parallel(self, depth: int) -> Step:
        self.at_once = True
        before, told = list(self.readable), list(self.told)
        children = []
        for _ in range(self.r.randint(1, 4)):
            self.readable, self.told = list(before), list(told)  # a sibling must not be read
            children.append(dataclasses.replace(self.step(depth - 1), background=False))
        self.readable, self.told = before, told
        return parallel(
            self.id("parallel"),
            *children,
            max_concurrent=self.r.choice([None, 1, 2]),
            keep_going=self.tolerance(),
            **self.outer(),
        )

    def _deep_foreach(self, depth: int) -> Step:
        self.at_once = True
        before, told, step_id = list(self.readable), list(self.told), self.id("each")
        self.items.append(step_id)
        children = self.inner(depth)
        self.items.pop()
        self.readable, self.told = before, told
        items = self.r.choice([["p", "q", "q2"], ["p"], [], ["p", "q", "r", "s", "t"]])
        return foreach(
            step_id,
            items,
            *children,
            as_=step_id,
            max_concurrent=self.r.choice([1, 2, 3]),
            keep_going=self.tolerance(),
            **self.outer(),
        )

    def _deep_fallback(self, depth: int) -> Step:
        children = [dataclasses.replace(one, background=False) for one in self.inner(depth)]
        return fallback(self.id("fallback"), *children, **self.outer())

    def _deep_choose(self, depth: int) -> Step:
        first, second = self.inner(depth), self.inner(depth)
        return choose(self.id("choose"), (self.r.choice(["true", "false"]), first), (None, second), **self.outer())

    def _deep_sub(self, depth: int) -> Step:
        before, told, items = self.readable, self.told, self.items
        self.readable, self.told = [], []
        step_id = self.id("sub")
        here = self.key("x")
        self.items = ["inputs.at"]  # so that two items do not touch one object
        steps = self.steps(depth - 1, 1, 3)
        called = book(
            *steps,
            name=f"called_{step_id}",
            inputs=(Input("at", "string"),),
            on_failure=OnFailure(self.r.random() < 0.4, self.handlers() if self.r.random() < 0.3 else ()),
            finally_=self.handlers() if self.r.random() < 0.3 else (),
            timeout=self.r.choice([None, self.seconds(12)]),
            cleanup=self.r.choice([500.0, self.seconds(5)]),
            outputs={"status": f"{{{{ steps.{steps[0].id}.status }}}}", "none": "{{ steps.nothing.outputs.x }}"},
        )
        self.readable, self.told, self.items = before, told, items
        return sub(step_id, called, {"at": here}, **self.outer())


def make(seed: int) -> Case:
    """The playbook of this number."""
    return Maker(seed).case()


def violations(seed: int, case: Case, kills: int = 12) -> int:
    """Check every law on one case; how many kills that were. AssertionError tells which was broken."""
    played, world, _ = undisturbed(case)
    nothing_left_behind(case, played, world)
    return somewhere(case, random.Random(seed), kills)


def nothing_left_behind(case: Case, played: Played, world: dict[str, Any]) -> None:
    """Inverses lead back; temporary changes are back whatever happened."""
    out = played.out
    assert out is not None
    trouble = bool(out.others) or len(case.cancels) > 1 or _short_cleanup(played)
    if trouble:
        return
    if case.rounds:
        stands = [
            done.path for done in played.toy.engine.log if not done.undone and not done.covered and not done.again
        ]
        assert not stands or out.status != "succeeded", f"an undo left {stands}"
    left = {key: value for key, value in world.items() if value not in (None, ()) and key != "ran"}
    temporary = {key for key in left if key.endswith("_T")}
    assert not temporary, f"temporary changes are left: {temporary}"
    if out.status not in ("succeeded", "skipped") and case.playbook.on_failure.undo and out.undone:
        made = {
            done.path
            for done in played.toy.engine.log
            if not done.undone and not done.covered and done.inverse and not done.again
        }
        after = {path for path in made if path.startswith("!")}  # the root's own handlers come after its undo
        assert made == after, f"not undone: {sorted(made - after)}"


def _short_cleanup(played: Played) -> bool:
    """Whether some clean-up ran out of its time, or an inverse failed."""
    phases = [
        status
        for key, status in played.toy.statuses().items()
        if key.rpartition("!")[2] in ("undo", "temporary", "finally", "on_failure")
    ]
    return any(status not in ("succeeded", "skipped") for status in phases)


# --- shrinking


def smaller(playbook: Playbook) -> Iterator[Playbook]:
    """The playbook with one thing less."""
    for steps in _fewer(playbook.steps):
        if steps:
            yield dataclasses.replace(playbook, steps=steps)
    if playbook.finally_:
        yield dataclasses.replace(playbook, finally_=())
    if playbook.on_failure.steps:
        yield dataclasses.replace(playbook, on_failure=dataclasses.replace(playbook.on_failure, steps=()))
    if playbook.timeout is not None:
        yield dataclasses.replace(playbook, timeout=None)


def _fewer(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    for number, step in enumerate(steps):
        before, after = steps[:number], steps[number + 1 :]
        yield (*before, *after)
        for one in _plainer(step):
            yield (*before, one, *after)


def _plainer(step: Step) -> Iterator[Step]:
    plain: dict[str, Any] = {
        "timeout": None,
        "finally_": (),
        "locks": (),
        "when": None,
        "milestone": None,
        "outputs": (),
    }
    for name, value in plain.items():
        if getattr(step, name) != value:
            yield dataclasses.replace(step, **{name: value})
    if step.on_failure.steps:
        yield dataclasses.replace(step, on_failure=dataclasses.replace(step.on_failure, steps=()))
    if isinstance(step, Action):
        return
    if isinstance(step, Choose):
        for number, branch in enumerate(step.branches):
            for steps in _fewer(branch.steps):
                yield dataclasses.replace(
                    step,
                    branches=(
                        *step.branches[:number],
                        dataclasses.replace(branch, steps=steps),
                        *step.branches[number + 1 :],
                    ),
                )
    elif isinstance(step, SubPlaybook):
        for called in smaller(step.playbook):
            yield dataclasses.replace(step, playbook=called)
    else:
        for steps in _fewer(step.steps):
            if steps:
                yield dataclasses.replace(step, steps=steps)


def shrunk(seed: int, case: Case, budget: float = 20.0) -> Case:
    """A smaller case that breaks a law too."""
    until = time.monotonic() + budget
    progress = True
    while progress and time.monotonic() < until:
        progress = False
        for playbook in smaller(case.playbook):
            candidate = dataclasses.replace(case, playbook=playbook)
            if time.monotonic() > until:
                break
            if broken(seed, candidate, 40) is not None:
                case, progress = candidate, True
                break
    return case


def broken(seed: int, case: Case, kills: int = 12) -> str | None:
    """What is wrong with this case, or None."""
    try:
        violations(seed, case, kills)
    except AssertionError as error:
        return str(error)
    except Exception:  # the engine must not raise at all
        return traceback.format_exc(limit=-6)
    return None


def shown(case: Case) -> str:
    """A case as Python text, short enough to read."""

    def text(value: Any, depth: int) -> str:
        pad = "  " * depth
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = []
            for one in dataclasses.fields(value):
                got = getattr(value, one.name)
                default = one.default if one.default is not dataclasses.MISSING else None
                if (
                    one.name in ("place", "places", "effect", "lane", "file", "reads")
                    or got == default
                    or got in ((), frozenset())
                ):
                    continue
                parts.append(f"{one.name}={text(got, depth + 1)}")
            return f"{type(value).__name__}({', '.join(parts)})"
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            return "[\n" + "".join(f"{pad}  {text(item, depth + 1)}\n" for item in value) + f"{pad}]"
        return repr(value)

    return f"cancels={case.cancels} answers={dict(case.answers)}\n{text(case.playbook, 0)}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="the first playbook's number")
    parser.add_argument("--only", type=int, help="this playbook alone, with a shrunk case if it breaks a law")
    chosen = parser.parse_args(arguments)
    until, seed = time.monotonic() + chosen.seconds, chosen.seed if chosen.only is None else chosen.only
    playbooks = kills = bad = 0
    while time.monotonic() < until or playbooks == 0:
        case = make(seed)
        try:
            kills += violations(seed, case)
        except Exception as error:  # any exception at all is a violation
            bad += 1
            message = str(error) if isinstance(error, AssertionError) else traceback.format_exc(limit=-8)
            print(f"playbook {seed}: {message}\n  again: python -m tests.fuzz --only {seed}", flush=True)
            if chosen.only is not None:
                small = shrunk(seed, case)
                print(f"shrunk: {broken(seed, small, 40)}\n{shown(small)}")
        playbooks += 1
        if chosen.only is not None or bad >= 20:
            break
        seed += 1
    print(f"{playbooks} playbooks from {chosen.seed}, {kills} kills, {bad} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
